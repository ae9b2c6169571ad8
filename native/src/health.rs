//! gRPC health on the ext_proc port. Python says whether we are ready, which is the answer for every service name
//! but `liveness`: that is served as long as Python says anything.

use std::rc::Rc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use tokio::sync::oneshot;

use crate::handoff::Up;
use crate::io::Core;
use crate::status::{UNAVAILABLE, UNIMPLEMENTED, response_head, trailers};

const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;
const LIVENESS: &str = "liveness";
/// Of a request that is looked at; names are short.
const REQUEST_BYTES: usize = 1024;
/// What `List` names; charts and gateways probe these.
const NAMES: [&str; 5] =
    ["", "liveness", "readiness", "inference-extension", "envoy.service.ext_proc.v3.ExternalProcessor"];

#[derive(Clone, Copy)]
pub enum Call {
    Check,
    List,
    Watch,
}

/// grpc.health.v1.Health of grpc/health/v1/health.proto.
pub fn call(path: &str) -> Option<Call> {
    match path.strip_prefix("/grpc.health.v1.Health/")? {
        "Check" => Some(Call::Check),
        "List" => Some(Call::List),
        "Watch" => Some(Call::Watch),
        _ => None,
    }
}

pub async fn answer(core: Rc<Core>, call: Call, request: RecvStream, mut respond: SendResponse<Bytes>) {
    let Ok(mut send) = respond.send_response(response_head(), false) else { return };
    if let Call::Watch = call {
        // Probes poll.
        let _ = send.send_trailers(trailers(UNIMPLEMENTED, "Watch is not supported"));
        return;
    }
    let live = matches!(call, Call::Check) && asks_for(request, LIVENESS).await;
    let (sender, told) = oneshot::channel();
    let id = core.new_id();
    core.health.borrow_mut().insert(id, sender);
    core.handoff.push(id, Up::Health, true);
    let Ok(serving) = told.await else {
        let _ = send.send_trailers(trailers(UNAVAILABLE, "shutting down"));
        return;
    };
    let status = if serving || live { SERVING } else { NOT_SERVING };
    let sent = send.send_data(message(call, status), false);
    if sent.is_ok() {
        let _ = send.send_trailers(trailers(0, ""));
    }
}

/// Whether HealthCheckRequest.service (1: string) is this name; of a request that is none it is not.
async fn asks_for(mut request: RecvStream, name: &str) -> bool {
    let mut read = Vec::new();
    while let Some(Ok(piece)) = request.data().await {
        let _ = request.flow_control().release_capacity(piece.len());
        if read.len() + piece.len() > REQUEST_BYTES {
            return false;
        }
        read.extend_from_slice(&piece);
    }
    let head = [0, 0, 0, 0, name.len() as u8 + 2, 0x0A, name.len() as u8];
    read.strip_prefix(&head[..]) == Some(name.as_bytes())
}

fn message(call: Call, status: u8) -> Bytes {
    let check = [0x08, status]; // HealthCheckResponse.status = 1
    let mut body = Vec::with_capacity(160);
    if let Call::List = call {
        for name in NAMES {
            // HealthListResponse.statuses = 1: map<string, HealthCheckResponse>. All of it is short.
            let entry = 2 + name.len() + 2 + check.len();
            body.extend([0x0A, entry as u8, 0x0A, name.len() as u8]);
            body.extend(name.as_bytes());
            body.extend([0x12, check.len() as u8, 0x08]);
            body.push(if name == LIVENESS { SERVING } else { status });
        }
    } else {
        body.extend(check);
    }
    let mut framed = vec![0];
    framed.extend((body.len() as u32).to_be_bytes());
    framed.extend(body);
    Bytes::from(framed)
}
