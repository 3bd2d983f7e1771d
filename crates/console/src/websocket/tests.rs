//! Connections as a browser opens and uses them, and as nobody should.

use proptest::prelude::*;

use super::*;

/// RFC 6455's example, 1.2, with these lines in it.
fn request(lines: &str) -> Vec<u8> {
    format!(
        "GET /chat HTTP/1.1\r\nHost: 127.0.0.1:5900\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
    .into_bytes()
}

fn frame(first: u8, data: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut bytes = vec![first];
    match data.len() {
        len @ ..126 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0xfe);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&mask);
    bytes.extend(data.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn open() -> WebSocket {
    let mut socket = WebSocket::new(true);
    socket.receive(&request("")).unwrap();
    assert!(socket.is_open());
    socket.take_output();
    socket
}

#[test]
fn a_browser_is_answered_as_the_specification_has_it() {
    let mut socket = WebSocket::new(true);
    let request = request("Origin: http://localhost:6080\r\nSec-WebSocket-Protocol: chat, binary\r\n");
    // In pieces, as networks deliver.
    for piece in request.chunks(100) {
        assert!(!socket.is_open());
        assert!(socket.receive(piece).unwrap().is_empty());
    }
    assert!(socket.is_open());
    let answer = String::from_utf8(socket.take_output()).unwrap().to_lowercase();
    assert!(answer.starts_with("http/1.1 101 "), "{answer}");
    assert!(answer.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
    assert!(answer.contains("sec-websocket-protocol: binary"), "{answer}");
    socket.send(b"RFB");
    assert_eq!(socket.take_output(), b"\x82\x03RFB");
}

#[test]
fn messages_come_whole_or_in_fragments_with_pings_in_between() {
    let mut socket = open();
    assert_eq!(socket.receive(&frame(0x82, b"abc")).unwrap(), b"abc");
    let bytes = [frame(0x02, b"ab"), frame(0x89, b"hey"), frame(0x00, b"cd"), frame(0x80, &[b'e'; 300])].concat();
    let mut got = vec![];
    bytes.chunks(7).for_each(|piece| got.extend(socket.receive(piece).unwrap()));
    assert_eq!(got, [&b"abcd"[..], &[b'e'; 300]].concat());
    assert_eq!(socket.take_output(), b"\x8a\x03hey");
    assert!(matches!(socket.receive(&frame(0x88, &[3, 232])), Err(WebSocketError::Closed)));
    assert_eq!(socket.take_output(), b"\x88\x02\x03\xe8", "the end is answered");
}

#[test]
fn what_breaks_the_rules_ends_it() {
    let huge = [0x82, 0xff, 0, 0, 0, 0x10, 0, 0, 0, 0, 1, 2, 3, 4];
    for wrong in [&frame(0x81, b"text")[..], &[0x82, 1, 7], &frame(0xc2, b"reserved"), &frame(0x83, b"?"), &huge] {
        let mut socket = open();
        assert!(socket.receive(wrong).is_err(), "{wrong:?}");
        assert!(socket.receive(&frame(0x82, b"more")).is_err());
    }
    for wrong in [&b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"[..], b"GET ?\r\n\r\n", &[0x16, 3, 1, 13, 10, 13, 10]] {
        let mut socket = WebSocket::new(true);
        assert!(socket.receive(wrong).is_err());
        assert!(socket.take_output().starts_with(b"HTTP/1.1 400 "));
    }
    // A request that never ends isn't kept forever.
    let mut socket = WebSocket::new(true);
    let endless = (0..100).try_for_each(|_| socket.receive(&[b'x'; 4096]).map(drop));
    assert!(endless.is_err());
}

#[test]
fn pages_of_other_hosts_are_refused_where_there_is_no_password() {
    let own = |origin: &str, host: &str| {
        let mut headers = HeaderMap::new();
        headers.insert("origin", HeaderValue::from_str(origin).unwrap());
        headers.insert("host", HeaderValue::from_str(host).unwrap());
        is_own_page(&headers)
    };
    assert!(is_own_page(&HeaderMap::new()), "no page at all");
    assert!(own("http://localhost:6080", "127.0.0.1:5900") && own("http://[::1]", "localhost:5900"));
    assert!(own("https://192.0.2.7", "192.0.2.7:5900"));
    for (origin, host) in [
        ("https://example.org", "127.0.0.1:5900"),
        // A name that its owner makes point here.
        ("https://example.org", "example.org:5900"),
        ("http://192.0.2.8", "127.0.0.1:5900"),
        ("null", "127.0.0.1:5900"),
    ] {
        assert!(!own(origin, host), "{origin} {host}");
    }
    for (own_pages, status) in [(true, "HTTP/1.1 403 "), (false, "HTTP/1.1 101 ")] {
        let mut socket = WebSocket::new(own_pages);
        assert_eq!(socket.receive(&request("Origin: https://example.org\r\n")).is_err(), own_pages);
        assert!(socket.take_output().starts_with(status.as_bytes()));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..300), opened: bool, piece in 1..40_usize) {
        let start = || if opened { open() } else { WebSocket::new(true) };
        let (mut whole, mut pieces) = (start(), start());
        let at_once = whole.receive(&bytes).unwrap_or_default();
        let mut got = vec![];
        for piece in bytes.chunks(piece) {
            match pieces.receive(piece) {
                Ok(data) => got.extend(data),
                Err(_) => break,
            }
        }
        prop_assert!(got.starts_with(&at_once), "what is in whole messages doesn't depend on pieces");
    }
}
