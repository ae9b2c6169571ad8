//! HPACK's Huffman code (RFC 7541, appendix B). It is canonical: the lengths of its codes say everything.

const SYMBOLS: usize = 257;
const END: u16 = 256;
const LONGEST: usize = 30;
#[rustfmt::skip]
const LENGTHS: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28,
    28, 28, 28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7,
    7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21,
    23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24,
    21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
];
const CODE: Code = Code::made();

/// Of each length: the first code, how many there are, and where their symbols begin.
struct Code {
    first: [u32; LONGEST + 1],
    count: [u32; LONGEST + 1],
    begin: [usize; LONGEST + 1],
    symbols: [u16; SYMBOLS],
}

impl Code {
    const fn made() -> Code {
        let mut code = Code {
            first: [0; LONGEST + 1],
            count: [0; LONGEST + 1],
            begin: [0; LONGEST + 1],
            symbols: [0; SYMBOLS],
        };
        let (mut length, mut next, mut at) = (1, 0, 0);
        while length <= LONGEST {
            next <<= 1;
            code.first[length] = next;
            code.begin[length] = at;
            let mut symbol = 0;
            while symbol < SYMBOLS {
                if LENGTHS[symbol] as usize == length {
                    code.symbols[at] = symbol as u16;
                    code.count[length] += 1;
                    next += 1;
                    at += 1;
                }
                symbol += 1;
            }
            length += 1;
        }
        code
    }
}

/// None for what no encoder may send.
pub fn decoded(coded: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(coded.len() * 8 / 5);
    let (mut code, mut bits) = (0_u32, 0);
    for byte in coded {
        for place in (0..8).rev() {
            code = code << 1 | u32::from(byte >> place & 1);
            bits += 1;
            // Codes that are shorter than this one begin with smaller bits.
            let further = code - CODE.first[bits];
            if further < CODE.count[bits] {
                let symbol = CODE.symbols[CODE.begin[bits] + further as usize];
                if symbol == END {
                    return None;
                }
                text.push(symbol as u8);
                (code, bits) = (0, 0);
            }
        }
    }
    // The rest of the last byte is the beginning of the longest code.
    (bits < 8 && code == (1_u32 << bits) - 1).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The code of each symbol, from the decoder's tables.
    fn encoded(text: &[u8]) -> Vec<u8> {
        let (mut out, mut kept, mut bits) = (Vec::new(), 0_u64, 0);
        for symbol in text {
            let length = usize::from(LENGTHS[usize::from(*symbol)]);
            let among = &CODE.symbols[CODE.begin[length]..];
            let place = among.iter().position(|other| other == &u16::from(*symbol)).unwrap();
            kept = kept << length | u64::from(CODE.first[length] + place as u32);
            bits += length;
            while bits >= 8 {
                bits -= 8;
                out.push((kept >> bits) as u8);
            }
        }
        if bits > 0 {
            out.push((kept << (8 - bits)) as u8 | 0xff >> bits);
        }
        out
    }

    #[test]
    fn the_examples_of_the_standard() {
        // RFC 7541, C.4.1, C.4.2, C.6.1, C.6.3.
        let examples: [(&[u8], &[u8]); 4] = [
            (b"www.example.com", b"\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff"),
            (b"no-cache", b"\xa8\xeb\x10\x64\x9c\xbf"),
            (b"302", b"\x64\x02"),
            (b"gzip", b"\x9b\xd9\xab"),
        ];
        for (text, coded) in examples {
            assert_eq!(decoded(coded).as_deref(), Some(text));
        }
    }

    #[test]
    fn every_byte() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(decoded(&encoded(&all)), Some(all.clone()));
        for byte in all {
            assert_eq!(decoded(&encoded(&[byte])), Some(vec![byte]));
        }
    }

    #[test]
    fn what_no_encoder_may_send() {
        // The end's own code; eight bits and more of padding; padding of other bits.
        for wrong in [&b"\xff\xff\xff\xff"[..], b"\xff", b"\x07\xff", b"\x00", b"\x06"] {
            assert_eq!(decoded(wrong), None, "{wrong:x?}");
        }
        assert_eq!(decoded(b""), Some(vec![]));
    }
}
