//! One stream of an HTTP/2 connection: a request and its response.

use std::{sync::Arc, time::Instant};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    header::{self, HeaderValue},
};
use tonic::body::Body as BoxedBody;

use super::{context::ConnectionContext, counted_body::counted, grpc};
use crate::serve::health::{format::Format, render::RenderedResponse, response, route::Route};

/// Answers a request, whether it is gRPC or not.
pub async fn answer(
    request: Request<Incoming>,
    context: &ConnectionContext,
) -> Response<BoxedBody> {
    let ConnectionContext { slot, streams, .. } = context;
    let stream = streams.open();
    if streams.is_over_limit() {
        // The connection is about to be ended.
        return Response::new(BoxedBody::empty());
    }
    // From its first request on, the connection is not a silent one.
    slot.set_waiting(true);
    let response = if grpc::is_watch_call(&request) {
        // The stream stays open for as long as its body.
        Box::pin(grpc::answer(request, context)).await.map(|body| counted(body, stream))
    } else if grpc::is_call(&request) {
        // Boxed, so that the tasks of other requests stay small.
        let response = Box::pin(grpc::answer(request, context)).await;
        response.map(|body| counted(body, streams.unsent(0)))
    } else {
        // The body is dropped unread: h2 then keeps none of it, however long the response takes.
        answer_plain(request.map(drop), context).await
    };
    slot.answered(Instant::now());
    response
}

/// Answers a request that is not gRPC, as HTTP/1 would.
async fn answer_plain(request: Request<()>, context: &ConnectionContext) -> Response<BoxedBody> {
    let ConnectionContext { state, streams, .. } = context;
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let format = accepted_format(request.headers());
    let has_body = request.method() != Method::HEAD;
    let cached = state.cache.get(request.method().as_str(), target, format, Instant::now());
    let rendered = match cached {
        Ok(rendered) => rendered,
        Err(route) => {
            // While it waits, a request is no more than its route. The wait is boxed, so that the task of every other
            // request stays small.
            drop(request);
            let response = Box::pin(respond_when_sampled(route, format, context)).await;
            Arc::new(RenderedResponse::new(response))
        }
    };
    state.responses.count(rendered.status());
    rendered.to_http2(|body| {
        if !has_body {
            return BoxedBody::empty();
        }
        let unsent = streams.unsent(body.len());
        BoxedBody::new(Full::new(unsent.track(body)))
    })
}

/// Responds once the probes of the route have a result, or from what is known when too many requests wait.
async fn respond_when_sampled(
    route: Route,
    format: Format,
    context: &ConnectionContext,
) -> response::Response {
    let ConnectionContext { number, state, streams, .. } = context;
    let _until_there_is_a_response = streams.answering();
    let mut waiting = state.http2.waiting.hold(*number);
    let router = state.cache.router();
    tokio::select! {
        biased;
        response = router.wait(&route, format) => response,
        () = waiting.evicted() => router.known(&route, format),
    }
}

fn accepted_format(headers: &HeaderMap) -> Format {
    Format::accepted(headers.get_all(header::ACCEPT).iter().map(HeaderValue::as_bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use hyper::StatusCode;
    use tocsin_runtime::tasks::Stop;

    use super::*;
    use crate::{
        checks::runner::{Probe, Runner},
        serve::health::{
            connection_slot::ConnectionSlot,
            http2_limits::Http2Limits,
            listener_state::{self, ListenerState},
            route::tests::router_with,
        },
    };

    /// Contexts of two connections that share a limit of two waiting requests, and a check whose probe never ends.
    fn contexts() -> (Runner, [ConnectionContext; 2]) {
        let probe = Probe {
            name: "kubelet",
            timeout: Duration::from_mins(1),
            sample: Box::new(|| Box::pin(std::future::pending())),
        };
        let (runner, probes) = Runner::start(vec![probe], &[], Duration::from_secs(1)).unwrap();
        let (router, _faults) = router_with(probes, Some("n"), false, 200);
        let http2 = Arc::new(Http2Limits::new(1, 2));
        let state = ListenerState { http2, ..listener_state::tests::state(router) };
        let state = Arc::new(state);
        let context = || ConnectionContext {
            number: state.http2.number_connection(),
            slot: Arc::new(ConnectionSlot::new(Instant::now(), Arc::default(), Arc::default())),
            state: state.clone(),
            streams: Arc::default(),
            stop: Stop::channel().1,
        };
        (runner, [context(), context()])
    }

    fn request(target: &str) -> Request<()> {
        Request::get(target).body(()).unwrap()
    }

    #[tokio::test]
    async fn the_connection_with_the_most_waiting_requests_is_answered_from_what_is_known() {
        let (_runner, [greedy, modest]) = contexts();
        let ask = |context: &ConnectionContext| {
            let context = context.clone();
            tokio::spawn(async move { answer_plain(request("/health/kubelet"), &context).await })
        };
        let mut oldest = ask(&greedy);
        let waits = tokio::time::timeout(Duration::from_millis(100), &mut oldest).await;
        assert!(waits.is_err());
        let (other, last) = (ask(&greedy), ask(&modest));
        let response = oldest.await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("no result yet"), "{body}");
        assert!(!other.is_finished() && !last.is_finished());
        // Whatever waits, a request for other checks is answered.
        assert_eq!(answer_plain(request("/health"), &greedy).await.status(), StatusCode::OK);
    }
}
