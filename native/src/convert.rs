//! Python's values to ours and back. Attribute names are those of `epp.domain.views` and `epp.domain.errors`.

mod events;
mod names;
mod verdicts;

pub use events::{Body, event, event_with, scanned};
pub use verdicts::{pairs, refusal, route, verdict};
