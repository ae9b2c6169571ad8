//! Numbers that are the same for the same seed, and what can be done to bytes with them.

/// xorshift64*.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.next();
        random
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// 0 to `end`, without it.
    pub fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 32) as usize) % end.max(1)
    }

    pub fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    pub fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most + 1)).map(|_| self.next() as u8).collect()
    }

    /// `data` in pieces, some of them empty.
    pub fn split(&mut self, data: &[u8]) -> Vec<Vec<u8>> {
        let (mut pieces, mut rest) = (Vec::new(), data);
        let most = self.pick(&[1, 3, 17, 300, 5000]).max(data.len() / 200);
        while !rest.is_empty() {
            let (piece, left) = rest.split_at(self.below(most + 1).min(rest.len()));
            pieces.push(piece.to_vec());
            rest = left;
        }
        pieces
    }

    /// A few changes; `other` is material for splices.
    pub fn mutate(&mut self, data: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let at = self.below(data.len() + 1);
            let end = (at + self.below(40)).min(data.len());
            match self.below(12) {
                0 | 1 if at < data.len() => data[at] ^= 1 << self.below(8),
                2 if at < data.len() => data[at] = self.pick(&[0, 1, 0x22, 0x5c, 0x7f, 0x80, 0xc3, 0xff]),
                3 => data.truncate(at),
                4 => drop(data.drain(at..end)),
                5 => {
                    let again = data[at..end].to_vec();
                    let times = self.pick(&[1, 2, 50]);
                    data.splice(at..at, again.repeat(times));
                }
                6 => drop(data.splice(at..end, self.bytes(12))),
                7 => {
                    let from = self.below(other.len() + 1);
                    let to = (from + self.below(80)).min(other.len());
                    data.splice(at..end, other[from..to].iter().copied());
                }
                // A length, or a tag, is off by a little.
                8 if at < data.len() => {
                    data[at] = data[at].wrapping_add(self.pick(&[1, 2, 8, 0xff, 0xfe]));
                }
                // A number without end.
                9 => drop(data.splice(at..at, vec![0xff; 1 + self.below(12)])),
                10 => *data = nested(self, data),
                _ => {}
            }
        }
    }
}

/// In fields in fields.
fn nested(random: &mut Random, data: &[u8]) -> Vec<u8> {
    let field = random.pick(&[0x0a, 0x12, 0x1a, 0x2a, 0x32, 0x42, 0x0b]);
    let mut inner = data[..data.len().min(200)].to_vec();
    for _ in 0..random.pick(&[1, 5, 99, 120]) {
        let mut outer = vec![field];
        super::messages::varint(inner.len() as u64, &mut outer);
        outer.extend(&inner);
        inner = outer;
    }
    inner
}
