use actix_web::body::to_bytes;
use actix_web::test::TestRequest;

use super::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn request() -> TestRequest {
    TestRequest::get()
        .insert_header(("Connection", "keep-alive, Upgrade"))
        .insert_header(("Upgrade", "WebSocket"))
        .insert_header(("Sec-WebSocket-Version", "13"))
        .insert_header(("Sec-WebSocket-Key", KEY))
}

fn check(request: TestRequest) -> Result<HttpResponse, HandshakeRefusal> {
    handshake(&request.to_http_request()).map(|mut response| response.finish())
}

#[actix_web::test]
async fn the_example_of_the_rfc_is_accepted() {
    let response = check(request()).unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let accept = response.headers().get(SEC_WEBSOCKET_ACCEPT).unwrap();
    assert_eq!(accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert!(!response.headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
}

#[actix_web::test]
async fn our_protocol_is_chosen_among_others_and_others_alone_are_refused() {
    let offer = |value: &str| check(request().insert_header(("Sec-WebSocket-Protocol", value.to_owned())));
    let response = offer("chat, grid.v1").unwrap();
    assert_eq!(response.headers().get(SEC_WEBSOCKET_PROTOCOL).unwrap(), SUBPROTOCOL);
    let both = request()
        .append_header(("Sec-WebSocket-Protocol", "chat"))
        .append_header(("Sec-WebSocket-Protocol", "grid.v1"));
    assert!(check(both).unwrap().headers().contains_key(SEC_WEBSOCKET_PROTOCOL));
    let refusal = offer("chat,grid.v2").unwrap_err();
    assert_eq!(refusal, HandshakeRefusal::Protocol);
    let response = refusal.response();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let body = to_bytes(response.into_body()).await.unwrap();
    assert!(String::from_utf8_lossy(&body).contains("grid.v1"), "{body:?}");
}

#[actix_web::test]
async fn a_request_that_is_none_for_a_websocket_is_told_to_upgrade() {
    for plain in [
        TestRequest::get(),
        request().insert_header(("Upgrade", "h2c")),
        request().insert_header(("Connection", "close")),
    ] {
        let refusal = check(plain).unwrap_err();
        assert_eq!(refusal, HandshakeRefusal::NoUpgrade);
        let response = refusal.response();
        assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
        assert_eq!(response.headers().get(UPGRADE).unwrap(), "websocket");
        let body = to_bytes(response.into_body()).await.unwrap();
        assert!(body.starts_with(b"{\"error\":\""), "{body:?}");
    }
}

#[actix_web::test]
async fn a_wrong_version_is_told_the_right_one_and_a_missing_one_is_refused() {
    let refusal = check(request().insert_header(("Sec-WebSocket-Version", "8"))).unwrap_err();
    let response = refusal.response();
    assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
    assert_eq!(response.headers().get(SEC_WEBSOCKET_VERSION).unwrap(), "13");
    let without = TestRequest::get()
        .insert_header(("Connection", "Upgrade"))
        .insert_header(("Upgrade", "websocket"))
        .insert_header(("Sec-WebSocket-Key", KEY));
    assert_eq!(check(without).unwrap_err(), HandshakeRefusal::NoVersion);
}

#[actix_web::test]
async fn a_key_that_is_none_is_refused() {
    for key in [
        "",
        "short",
        "dGhlIHNhbXBsZSBub25jZQ",
        "dGhlIHNhbXBsZSBub25jZSB0b28gbG9uZw==",
    ] {
        let refusal = check(request().insert_header(("Sec-WebSocket-Key", key))).unwrap_err();
        assert_eq!(refusal, HandshakeRefusal::Key, "{key}");
        assert_eq!(refusal.response().status(), StatusCode::BAD_REQUEST);
    }
}
