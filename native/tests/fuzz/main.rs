//! A bounded fuzz run: made-up and mutated messages, bodies and HTTP/2 connections must neither panic nor leave
//! anything behind. It is the same every time. `EPP_FUZZ_INPUTS` says how many inputs (all parts together, a
//! share of a million by default), `EPP_FUZZ_SEED` where to begin: a failure prints the seed of its input, and
//! with `EPP_FUZZ_ONE=1` as well only that input runs.

mod authorities;
mod bodies;
mod connections;
mod exchanges;
mod messages;
mod random;

use std::time::Instant;

use random::Random;

const INPUTS: u64 = 40_000;
/// Of a hundred inputs.
const MESSAGES: u64 = 82;
const BODIES: u64 = 12;
const CONNECTIONS: u64 = 3;
const AUTHORITIES: u64 = 1;
const UNTOUCHED: u64 = 2;

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Says which input it was that failed.
struct Case(&'static str, u64);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Case(part, seed) = self;
            eprintln!("to repeat: EPP_FUZZ_ONE=1 EPP_FUZZ_SEED={seed} cargo test --test fuzz {part}");
        }
    }
}

/// Runs cases, each of which says how many inputs it was, until the part has had its share.
fn each(part: &'static str, share: u64, mut case: impl FnMut(&mut Random) -> u64) {
    let inputs = number("EPP_FUZZ_INPUTS", INPUTS) * share / 100;
    let one = number("EPP_FUZZ_ONE", 0) == 1;
    let (mut seed, mut seen, began) = (number("EPP_FUZZ_SEED", 1), 0, Instant::now());
    while seen < if one { 1 } else { inputs.max(1) } {
        let _case = Case(part, seed);
        seen += case(&mut Random::new(seed));
        seed += 1;
    }
    println!("{part}: {seen} inputs, {:.0} a second", seen as f64 / began.elapsed().as_secs_f64());
}

#[test]
fn messages_and_exchanges() {
    each("messages_and_exchanges", MESSAGES, exchanges::case);
}

#[test]
fn answers_and_prompts() {
    each("answers_and_prompts", BODIES, bodies::case);
}

#[test]
fn http2_connections() {
    let served = connections::Served::new();
    each("http2_connections", CONNECTIONS, |random| served.case(random));
    served.check_client();
}

#[test]
fn authorities() {
    let heard = authorities::Heard::new();
    each("authorities", AUTHORITIES, |random| heard.case(random));
}

#[test]
fn untouched() {
    each("untouched", UNTOUCHED, authorities::untouched);
}
