//! Viewers that come through TLS, a WebSocket, or one in the other.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};
use tungstenite::client::IntoClientRequest;
use tungstenite::{Message, WebSocket};

use super::viewer::{Carrier, ZRLE, connect, enter_by, prove, read};
use super::{Viewer, grub, monitor, ppm, screendump};

/// Makes an authority and a server's certificate under QEMU's names, and `client-cert.pem` with its key.
pub(super) fn make_certificates(folder: &Path) {
    let named = |name: &str, hosts: &[&str]| {
        let mut params =
            CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut authority = named("Test authority", &[]);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(folder.join("ca-cert.pem"), authority.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(authority, key);
    for (name, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params = named(name, &["localhost", "127.0.0.1"]);
        params.extended_key_usages.push(usage);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.join(format!("{name}-cert.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

/// TLS with a server that the folder's authority vouches for; with the client's certificate if `known`.
fn encrypt(stream: TcpStream, folder: &Path, known: bool) -> StreamOwned<ClientConnection, TcpStream> {
    let certificate = |name: &str| CertificateDer::from_pem_file(folder.join(name)).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca-cert.pem")).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let config = if known {
        let key = PrivateKeyDer::from_pem_file(folder.join("client-key.pem")).unwrap();
        config.with_client_auth_cert(vec![certificate("client-cert.pem")], key).unwrap()
    } else {
        config.with_no_client_auth()
    };
    let name = ServerName::try_from("localhost").unwrap();
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
}

/// VeNCrypt up to where TLS begins, with this subtype.
fn vencrypt(port: u16, subtype: u32) -> TcpStream {
    let mut stream = connect(port);
    assert_eq!(&read::<12>(&mut stream), b"RFB 003.008\n");
    stream.write_all(b"RFB 003.008\n").unwrap();
    assert_eq!(read::<2>(&mut stream), [1, 19], "nothing but VeNCrypt is offered");
    stream.write_all(&[19]).unwrap();
    assert_eq!(read::<2>(&mut stream), [0, 2]);
    stream.write_all(&[0, 2]).unwrap();
    assert_eq!(read::<2>(&mut stream), [0, 1]);
    assert_eq!(read::<4>(&mut stream), subtype.to_be_bytes());
    stream.write_all(&subtype.to_be_bytes()).unwrap();
    assert_eq!(read::<1>(&mut stream), [1]);
    stream
}

/// A WebSocket's binary messages as a stream.
struct Web<S> {
    socket: WebSocket<S>,
    waiting: Vec<u8>,
}

impl<S: Carrier> Web<S> {
    fn open(stream: S) -> Self {
        let mut request = "ws://localhost/websockify".into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "binary".parse().unwrap());
        let (socket, response) = tungstenite::client(request, stream).map_err(|error| error.to_string()).unwrap();
        assert_eq!(response.headers()["sec-websocket-protocol"], "binary");
        Self { socket, waiting: vec![] }
    }
}

impl<S: Carrier> Read for Web<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.waiting.is_empty() {
            match self.socket.read().map_err(io::Error::other)? {
                Message::Binary(data) => self.waiting = data.to_vec(),
                other => assert!(matches!(other, Message::Ping(_) | Message::Pong(_)), "{other:?}"),
            }
        }
        let len = self.waiting.len().min(buffer.len());
        buffer[..len].copy_from_slice(&self.waiting[..len]);
        self.waiting.drain(..len);
        Ok(len)
    }
}

impl<S: Carrier> Write for Web<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::Binary(bytes.to_vec().into())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn what_is_encrypted_shows_the_screen_to_those_with_the_password() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let file = folder.path().join("password");
    std::fs::write(&file, "sesame").unwrap();
    let (certificates, file) = (folder.path().display(), file.display());
    let options = format!(",tls-creds-dir={certificates},password-file={file}");
    let Some((mut pc, port)) = grub(folder.path(), &options) else { return };
    let tls = || encrypt(vencrypt(port, 261), folder.path(), false);
    assert_eq!(prove(tls(), Some("Sesame")).err().as_deref(), Some("wrong password"));
    let mut viewer = Viewer::begin(prove(tls(), Some("sesame")).unwrap(), true, &[ZRLE]);
    viewer.look();
    viewer.type_text("c");
    pc.wait_for("grub>");
    pc.wait_until_still();
    viewer.look();
    assert!(ppm(&viewer) == screendump(folder.path()));
    assert!(monitor(folder.path(), "info vnc").contains("vencrypt"));
    // Who doesn't turn to TLS gets nowhere.
    let mut plain = connect(port);
    plain.write_all(b"RFB 003.008\n\x01\x01").unwrap();
    let mut heard = vec![];
    plain.read_to_end(&mut heard).unwrap();
    assert!(heard.ends_with(b"isn't offered"), "{heard:?}");
    let mut garbage = vencrypt(port, 261);
    garbage.write_all(&[0; 100]).unwrap();
    garbage.read_to_end(&mut vec![]).unwrap();
    pc.finish();
}

#[test]
fn viewers_without_a_certificate_stay_out_where_they_are_verified() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let options = format!(",tls-creds-dir={},verify-peer=on", folder.path().display());
    let Some((pc, port)) = grub(folder.path(), &options) else { return };
    let mut unknown = encrypt(vencrypt(port, 260), folder.path(), false);
    assert!(unknown.read_exact(&mut [0; 4]).is_err());
    let known = encrypt(vencrypt(port, 260), folder.path(), true);
    let mut viewer = Viewer::begin(prove(known, None).unwrap(), true, &[ZRLE]);
    viewer.look();
    assert!(ppm(&viewer) == screendump(folder.path()));
    pc.finish();
}

#[test]
fn a_websocket_comes_in_beside_others_or_at_a_port_of_its_own() {
    let own = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (options, separate) in [(String::new(), false), (format!(",websocket={own}"), true)] {
        let folder = tempfile::tempdir().unwrap();
        let Some((mut pc, port)) = grub(folder.path(), &options) else { return };
        let web = Web::open(connect(if separate { own } else { port }));
        let mut viewer = Viewer::begin(enter_by(web, None).unwrap(), true, &[ZRLE]);
        viewer.look();
        viewer.type_text("c");
        pc.wait_for("grub>");
        pc.wait_until_still();
        viewer.look();
        assert!(ppm(&viewer) == screendump(folder.path()));
        Viewer::connect(port, None, true, ZRLE).look();
        // A page of somebody else's.
        let mut foreign = connect(if separate { own } else { port });
        foreign
            .write_all(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: https://example.org\r\nUpgrade: websocket\r\n\
                  Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            )
            .unwrap();
        let mut answer = vec![];
        foreign.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&answer));
        pc.finish();
    }
}

#[test]
fn a_websocket_is_encrypted_where_connections_are() {
    let folder = tempfile::tempdir().unwrap();
    make_certificates(folder.path());
    let Some((pc, port)) = grub(folder.path(), &format!(",tls-creds-dir={}", folder.path().display())) else { return };
    let web = Web::open(encrypt(connect(port), folder.path(), false));
    let mut viewer = Viewer::begin(enter_by(web, None).unwrap(), true, &[ZRLE]);
    viewer.look();
    assert!(ppm(&viewer) == screendump(folder.path()));
    let mut plain = connect(port);
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = vec![];
    plain.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 403 "), "{}", String::from_utf8_lossy(&answer));
    pc.finish();
}
