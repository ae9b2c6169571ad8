//! Requests whose `:authority` h2 would not take.
//!
//! h2 resets every request whose `:authority` is none by the rules of URIs. Gateways send what they have: Envoy its
//! cluster's name where its configuration says nothing else, such as `outbound|9002||picker.ns.svc.cluster.local`
//! or `envoyextensionpolicy/ns/picker/extproc/0`. So between a connection's bytes and h2 such a value is replaced
//! by a stand-in, and the listener puts the real one back.
//!
//! A stand-in is exactly as long as what it stands for. Entries of HPACK's dynamic table then have the same sizes
//! here and there, h2's table is in step with the sender's whatever is replaced, and what refers to a replaced entry
//! needs no change. So only literals are looked at, there is no table of our own, and from any point on it is safe to
//! replace nothing any more. `stream` finds header blocks among the frames, `block` literals in a block.

mod block;
mod frames;
mod huffman;
mod stream;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::HeaderValue;
use http::uri::Authority;

pub use stream::Mended;

/// Begins a stand-in; what comes in with it at its beginning gets one itself.
const MARK: u8 = b'~';
/// In one connection. Further ones are not replaced, so h2 resets their requests.
const MOST: usize = 256;
const MOST_BYTES: usize = 64 << 10;
const DIGITS: u32 = 36;

/// Of one connection: what stands for what.
#[derive(Clone, Default)]
pub struct Names(Rc<RefCell<Replaced>>);

#[derive(Default)]
struct Replaced {
    /// A stand-in's number is a place in here.
    real: Vec<Bytes>,
    bytes: usize,
}

impl Names {
    /// What h2 is to see instead. None: `authority` itself.
    fn stand_in(&self, authority: &[u8]) -> Option<Vec<u8>> {
        let taken = authority.first() != Some(&MARK) && Authority::try_from(authority).is_ok();
        if taken || authority.is_empty() || HeaderValue::from_bytes(authority).is_err() {
            return None;
        }
        let mut replaced = self.0.borrow_mut();
        if let Some(number) = replaced.real.iter().position(|known| known == authority) {
            return made(number, authority.len());
        }
        if replaced.real.len() == MOST || replaced.bytes + authority.len() > MOST_BYTES {
            return None;
        }
        let new = made(replaced.real.len(), authority.len())?;
        replaced.real.push(Bytes::copy_from_slice(authority));
        replaced.bytes += authority.len();
        Some(new)
    }

    /// What `authority` stands for.
    pub fn real(&self, authority: &str) -> Option<Bytes> {
        let digits = authority.strip_prefix(char::from(MARK))?;
        let number = if digits.is_empty() { 0 } else { usize::from_str_radix(digits, DIGITS).ok()? };
        self.0.borrow().real.get(number).filter(|real| real.len() == authority.len()).cloned()
    }
}

/// None where so many digits have no place.
fn made(number: usize, length: usize) -> Option<Vec<u8>> {
    let mut text = vec![b'0'; length];
    *text.first_mut()? = MARK;
    let (mut rest, mut at) = (number, length);
    while rest > 0 {
        at -= 1;
        if at == 0 {
            return None;
        }
        text[at] = char::from_digit((rest % DIGITS as usize) as u32, DIGITS)? as u8;
        rest /= DIGITS as usize;
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(names: &Names, authority: &[u8]) -> Option<String> {
        names.stand_in(authority).map(|text| String::from_utf8(text).unwrap())
    }

    #[test]
    fn what_h2_takes_is_left_alone() {
        let names = Names::default();
        for fine in ["epp", "picker.ns.svc:9002", "[::1]:80", "a_b", "user@host"] {
            assert_eq!(seen(&names, fine.as_bytes()), None);
            assert_eq!(names.real(fine), None);
        }
    }

    #[test]
    fn others_are_replaced_by_what_h2_takes_and_is_as_long() {
        let names = Names::default();
        let odd: [&[u8]; 8] =
            [b"|", b"outbound|9002||a.b", b"a/b/0", b"a b", b"~0", b"~", b"\xff\xfe\x80", "größe".as_bytes()];
        for _ in 0..2 {
            for real in odd {
                let text = match seen(&names, real) {
                    Some(text) => text,
                    // One byte has place for one number.
                    None => {
                        assert_eq!(real, b"~");
                        continue;
                    }
                };
                assert_eq!(text.len(), real.len());
                assert_eq!(text.parse::<Authority>().unwrap().as_str(), text);
                assert_eq!(names.real(&text).unwrap(), real);
            }
        }
        assert_eq!(names.0.borrow().real.len(), odd.len() - 1);
    }

    #[test]
    fn what_is_no_header_value_is_left_to_h2() {
        for wrong in [&b""[..], b"a\r\nb", b"\0", b"a\x7f"] {
            assert_eq!(seen(&Names::default(), wrong), None);
        }
    }

    #[test]
    fn one_connection_has_so_many_and_not_more() {
        let names = Names::default();
        let given = (0..2 * MOST).filter_map(|number| seen(&names, format!("cluster/{number}").as_bytes()));
        assert_eq!(given.collect::<std::collections::HashSet<_>>().len(), MOST);
        assert!(seen(&names, b"cluster/0").is_some(), "a known one is still replaced");
        let long = Names::default();
        assert!(seen(&long, &[b'|'; MOST_BYTES]).is_some());
        assert_eq!(seen(&long, b"a/b"), None);
    }

    #[test]
    fn what_looks_like_a_stand_in_and_is_none_is_nothing() {
        let names = Names::default();
        assert_eq!(seen(&names, b"a/b").as_deref(), Some("~00"));
        for other in ["~0", "~000", "~01", "~", "~0|", "a00"] {
            assert_eq!(names.real(other), None, "{other}");
        }
    }
}
