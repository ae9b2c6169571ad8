//! The hashes of a prompt's blocks, found while its body comes in, for the plain shapes of chat and
//! completions bodies: text and nothing but text, in the usual order.
//!
//! What it says is what `epp/parsing/openai.py`, `flatten.py` and `blocks.py` say of the whole body. Where a
//! body has another shape, may be refused or leaves any other doubt, it says nothing, and those have to look.

mod flat;
mod scanning;
mod shape;
mod tokens;

pub use scanning::{ScanPlan, Scanning};

use crate::types::Api;
use flat::FlatText;
use shape::Shape;
use tokens::Tokens;

/// A body with more of these may be hashed as it stands: `epp.parsing.body.is_coarse`.
const MAX_OBJECTS: usize = 50_000;
const MAX_QUOTES: usize = 400_000;
/// Two blocks are held at a time.
const MAX_BLOCK_BYTES: usize = 1 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scanned {
    pub chain: Vec<u64>,
    /// Length of the flattened text.
    pub text_bytes: u64,
    /// [start, end) of the messages' or the prompt's value in the body.
    pub place: (usize, usize),
    pub block_bytes: usize,
    pub max_blocks: usize,
}

/// Feed every piece of one body; `finish` after the last.
pub struct PromptScan {
    /// None: given up.
    state: Option<(Tokens, Shape)>,
    block_bytes: usize,
    max_blocks: usize,
    objects: usize,
    quotes: usize,
}

impl PromptScan {
    /// Gives up at once where `api` is neither chat nor completions, or blocks have an odd size.
    pub fn new(api: Api, block_bytes: usize, max_blocks: usize) -> PromptScan {
        let is_known = matches!(api, Api::Chat | Api::Completions);
        let state = (is_known && (1..=MAX_BLOCK_BYTES).contains(&block_bytes)).then(|| {
            let text = FlatText::new(block_bytes, max_blocks);
            (Tokens::default(), Shape::new(api == Api::Chat, text))
        });
        PromptScan { state, block_bytes, max_blocks, objects: 0, quotes: 0 }
    }

    pub fn push(&mut self, piece: &[u8]) {
        let Some((tokens, shape)) = &mut self.state else { return };
        self.objects += count(piece, b'{');
        self.quotes += count(piece, b'"');
        let is_plain = self.objects <= MAX_OBJECTS && self.quotes <= MAX_QUOTES;
        if !is_plain || tokens.push(piece, shape).is_none() {
            self.state = None;
        }
    }

    pub fn finish(self) -> Option<Scanned> {
        let (tokens, shape) = self.state?;
        tokens.is_done().then_some(())?;
        let place = tokens.prompt()?;
        let (chain, text_bytes) = shape.finish()?.finish()?;
        let (block_bytes, max_blocks) = (self.block_bytes, self.max_blocks);
        Some(Scanned { chain, text_bytes, place, block_bytes, max_blocks })
    }
}

/// In parts whose counts fit a byte, so that many are counted at once.
fn count(data: &[u8], wanted: u8) -> usize {
    data.chunks(255)
        .map(|part| usize::from(part.iter().fold(0u8, |count, byte| count + u8::from(*byte == wanted))))
        .sum()
}
