//! What passes between the exchange and Python: the verdict down, the events up. Texts are UTF-8.

use bytes::Bytes;

use crate::prompt::Scanned;

/// A header's name and value.
pub type Pair = (Bytes, Bytes);

/// Wire format of a request's body, by the names of `epp.domain.request.Api`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Api {
    Chat,
    Completions,
    Responses,
    Conversations,
    Embeddings,
    Images,
    Rerank,
    Audio,
    Anthropic,
    Vllm,
    Sglang,
    VllmGrpc,
    #[default]
    Opaque,
}

impl Api {
    pub fn named(name: &str) -> Api {
        match name {
            "chat" => Api::Chat,
            "completions" => Api::Completions,
            "responses" => Api::Responses,
            "conversations" => Api::Conversations,
            "embeddings" => Api::Embeddings,
            "images" => Api::Images,
            "rerank" => Api::Rerank,
            "audio" => Api::Audio,
            "anthropic" => Api::Anthropic,
            "vllm" => Api::Vllm,
            "sglang" => Api::Sglang,
            "vllm-grpc" => Api::VllmGrpc,
            _ => Api::Opaque,
        }
    }
}

/// What the door does with the answer by itself; `epp.domain.views.AnswerPlan`.
#[derive(Clone, Debug)]
pub struct AnswerPlan {
    pub api: Api,
    pub stream: bool,
    pub set: Vec<Pair>,
    /// (name in the answer, name to write in its place)
    pub restore: Option<(String, String)>,
    pub ask: bool,
    pub observe: bool,
}

impl Default for AnswerPlan {
    fn default() -> Self {
        AnswerPlan {
            api: Api::Opaque,
            stream: false,
            set: Vec::new(),
            restore: None,
            ask: false,
            observe: true,
        }
    }
}

/// `epp.domain.views.Route`.
#[derive(Clone, Debug, Default)]
pub struct Route {
    pub destination: Bytes,
    pub set: Vec<Pair>,
    pub remove: Vec<Bytes>,
    pub body: Option<Bytes>,
    pub scores: Option<Vec<(Bytes, f64)>>,
    pub skip_response: bool,
    pub answer: AnswerPlan,
}

/// `epp.domain.errors.Answer`: a complete HTTP answer of our own.
#[derive(Clone, Debug, Default)]
pub struct Refusal {
    pub status: u16,
    pub headers: Vec<Pair>,
    pub body: Bytes,
    /// Name of the reason in lower case, for Envoy's access log.
    pub reason: String,
}

#[derive(Clone, Debug)]
pub enum Verdict {
    Route(Box<Route>),
    Refuse(Refusal),
}

/// `epp.domain.views.Ending`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Natural,
    ClientDisconnect,
    Error,
    Refused,
    Drained,
}

impl Ending {
    pub fn name(self) -> &'static str {
        match self {
            Ending::Natural => "natural",
            Ending::ClientDisconnect => "client-disconnect",
            Ending::Error => "error",
            Ending::Refused => "refused",
            Ending::Drained => "drained",
        }
    }
}

/// A limit that the exchange or the transport reached: the name of a row of `epp.domain.errors.Reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    BodyTooLarge,
    TooManyStreams,
    TimedOut,
}

impl Limit {
    pub fn name(self) -> &'static str {
        match self {
            Limit::BodyTooLarge => "BODY_TOO_LARGE",
            Limit::TooManyStreams => "TOO_MANY_STREAMS",
            Limit::TimedOut => "TIMED_OUT",
        }
    }
}

/// `epp.domain.request.AnswerView`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerView {
    Always,
    Choice,
    Never,
}

/// Whose stream it is, as the gateway's call says.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// `:authority` in lower case.
    pub authority: Bytes,
    /// `x-gateway-inference-pool` in the call's metadata, else in the dynamic metadata of the stream's beginning.
    pub pool: Bytes,
}

/// What Python makes a RequestHead of.
#[derive(Clone, Debug)]
pub struct Head {
    /// In order; names in lower case. Of repeated ones the last counts.
    pub headers: Vec<Pair>,
    /// Instant of the headers, CLOCK_MONOTONIC seconds.
    pub received_at: f64,
    pub has_body: bool,
    pub subset: Option<Vec<String>>,
    pub view: AnswerView,
    /// The stream began with the answer: `Door.open_answer`.
    pub answer_only: bool,
    pub origin: Origin,
}

/// `epp.domain.views.AnswerHead`.
#[derive(Clone, Debug, Default)]
pub struct AnswerHead {
    pub status: u16,
    pub at: f64,
    pub served: Option<String>,
    pub streamed: bool,
    pub encoded: bool,
    pub local: bool,
}

/// `epp.domain.request.Usage`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
    pub total_tokens: Option<u64>,
    pub cached_tokens: Option<u64>,
}

/// `epp.domain.views.Report`.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub observed: bool,
    pub override_ignored: bool,
    pub first_at: f64,
    pub last_at: f64,
    pub body_bytes: u64,
    pub usage: Option<Usage>,
    pub response_id: String,
    /// Empty where there were no gaps.
    pub gaps: Vec<u32>,
    pub gaps_s: f64,
    pub processing_s: f64,
}

/// What one stream tells Python. `head` comes with the first event of a stream and only with it.
#[derive(Clone, Debug)]
pub enum Event {
    /// Only where early refusals are asked for: Python answers `go_on` or a refusal.
    Headers {
        head: Box<Head>,
    },
    /// Python answers a verdict, now or later.
    Decide {
        head: Option<Box<Head>>,
        subset: Option<Vec<String>>,
        body: Bytes,
        truncated: bool,
        /// Where the body was scanned, and is of a plain shape.
        scanned: Option<Box<Scanned>>,
    },
    /// A limit was reached: Python answers with the refusal.
    Limited {
        head: Option<Box<Head>>,
        limit: Limit,
        text: String,
    },
    /// Python answers with headers to set where `wait`.
    Answered {
        head: Option<Box<Head>>,
        answer: Box<AnswerHead>,
        wait: bool,
    },
    /// The answer's body has begun. With a head where its headers were not shown to us.
    FirstToken {
        head: Option<Box<Head>>,
        at: f64,
    },
    End {
        head: Option<Box<Head>>,
        ending: Ending,
        report: Box<Report>,
    },
}
