//! Which bodies are scanned: long ones of the calls that Python named.

use std::rc::Rc;

use bytes::Bytes;

use crate::prompt::{PromptScan, Scanned};
use crate::types::{Api, Pair};

/// Python parses a shorter body as fast as a scan takes to begin.
const SCANNED_BYTES: usize = 8 << 10;

/// What Python wants to be scanned.
#[derive(Clone, Debug, Default)]
pub struct ScanPlan {
    /// Ends of paths, the longest first.
    pub suffixes: Vec<(String, Api)>,
    pub block_bytes: usize,
    pub max_blocks: usize,
}

impl ScanPlan {
    fn api(&self, headers: &[Pair]) -> Option<Api> {
        let last = |name: &str| headers.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value);
        if last("content-encoding").is_some_and(|encoding| !encoding.is_empty()) {
            return None;
        }
        let path = last(":path")?;
        let path = path.split(|byte| *byte == b'?').next()?;
        let found = self.suffixes.iter().find(|(suffix, _)| path.ends_with(suffix.as_bytes()));
        found.map(|(_, api)| *api)
    }
}

/// The scan of one body, once it is long enough.
pub struct Scanning {
    plan: Rc<ScanPlan>,
    api: Api,
    /// Pieces before it is.
    early: Vec<Bytes>,
    early_bytes: usize,
    scan: Option<PromptScan>,
}

impl Scanning {
    /// None where the body is not to be scanned.
    pub fn of(plan: &Rc<ScanPlan>, headers: &[Pair]) -> Option<Scanning> {
        let api = plan.api(headers)?;
        Some(Scanning { plan: plan.clone(), api, early: Vec::new(), early_bytes: 0, scan: None })
    }

    pub fn push(&mut self, piece: &Bytes) {
        if let Some(scan) = &mut self.scan {
            return scan.push(piece);
        }
        self.early_bytes += piece.len();
        if self.early_bytes < SCANNED_BYTES {
            if !piece.is_empty() {
                self.early.push(piece.clone());
            }
            return;
        }
        let mut scan = PromptScan::new(self.api, self.plan.block_bytes, self.plan.max_blocks);
        for early in self.early.drain(..) {
            scan.push(&early);
        }
        scan.push(piece);
        self.scan = Some(scan);
    }

    pub fn finish(self) -> Option<Scanned> {
        self.scan?.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_without_content_are_not_kept() {
        let suffixes = vec![("/completions".to_owned(), Api::Completions)];
        let plan = Rc::new(ScanPlan { suffixes, block_bytes: 64, max_blocks: 1 });
        let headers = [(":path".into(), "/v1/completions".into())];
        let mut scanning = Scanning::of(&plan, &headers).unwrap();
        scanning.push(&Bytes::new());
        assert!(scanning.early.is_empty());
    }
}
