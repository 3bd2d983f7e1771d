//! The API served for real, on a socket and over TCP, by a node alone: the document against the router, and the door.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::super::config::{ApiConfig, NodeConfig};
use super::*;
use crate::cluster::{Beginning, Owner};

const TOKEN: &str = "a-token-of-some-length";

/// A daemon's API without anything to run.
struct Served {
    _folder: tempfile::TempDir,
    config: NodeConfig,
    tcp: SocketAddr,
}

fn served() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let token_file = folder.path().join("token");
    std::fs::write(&token_file, TOKEN).unwrap();
    std::fs::set_permissions(&token_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = NodeConfig {
        name: "alone".into(),
        state: folder.path().into(),
        run: folder.path().into(),
        mirror_address: None,
        peer_mirror_address: None,
        api: Some(ApiConfig { listen: tcp, token_file, insecure: false }),
        cluster: None,
    };
    let text = "name = \"test\"\n[[vm]]\nname = \"idle\"\n[[mirror]]\nname = \"disk\"\nsize = \"1M\"\nport = 7801\n";
    let infra = Infra::parse(text, Path::new("infra.toml"), Path::new("/")).unwrap();
    let beginning = Beginning { cluster: None, state: config.state.clone(), members: vec![], inherited: None };
    let (owner, handle, events) = Owner::start(beginning).unwrap();
    std::thread::spawn(move || owner.run(&events, |_| ()));
    serve(&config, &infra, &handle).unwrap();
    Served { _folder: folder, config, tcp }
}

fn talk(mut stream: impl Read + Write, line: &str, headers: &str, body: &str) -> (u16, String) {
    let length = body.len();
    let request =
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
    // As a whole: who answers before the end of it closes the connection.
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let code = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (code, answer)
}

fn body(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

impl Served {
    fn ask(&self, line: &str, body: &str) -> (u16, String) {
        talk(UnixStream::connect(self.config.socket()).unwrap(), line, "", body)
    }

    fn ask_tcp(&self, line: &str, token: Option<&str>) -> (u16, String) {
        let start = Instant::now();
        // It begins to listen a moment later.
        let stream = loop {
            match TcpStream::connect(self.tcp) {
                Ok(stream) => break stream,
                Err(error) => assert!(start.elapsed() < Duration::from_secs(20), "{error}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let header = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        talk(stream, line, &header, "")
    }
}

/// What a parameter may be: the values that its schema lists, or any name.
fn values(document: &Value, parameter: &Value) -> Vec<String> {
    let reference = parameter["schema"]["$ref"].as_str();
    let schema = reference.map_or(&parameter["schema"], |path| document.pointer(&path[1..]).unwrap());
    let listed = schema["enum"].as_array().cloned().unwrap_or_default();
    let described = schema["oneOf"].as_array().into_iter().flatten().map(|one| one["const"].clone());
    let all: Vec<String> = listed.into_iter().chain(described).map(|value| value.as_str().unwrap().into()).collect();
    if all.is_empty() { vec!["nobody".into()] } else { all }
}

/// Every path with its names replaced.
fn filled(document: &Value, path: &str, operation: &Value) -> Vec<String> {
    let mut all = vec![path.to_owned()];
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let name = format!("{{{}}}", parameter["name"].as_str().unwrap());
        let fill = |path: String| values(document, parameter).into_iter().map(move |v| (path.clone(), v));
        all = all.into_iter().flat_map(fill).map(|(path, value)| path.replace(&name, &value)).collect();
    }
    all
}

#[test]
fn the_document_and_the_router_have_the_same_routes() {
    let node = served();
    let (code, answer) = node.ask("GET /openapi.json", "");
    let document = body(&answer);
    assert_eq!((code, document["openapi"].as_str()), (200, Some("3.1.0")));
    assert_eq!(document, openapi());
    for route in handlers::table() {
        assert!(document["paths"][route.path][route.method.name()].is_object(), "{}", route.path);
    }
    let mut actions = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in ["get", "post", "put", "delete", "patch"] {
            let operation = &item[method];
            let paths = filled(&document, path, item.as_object().unwrap().values().next().unwrap());
            for path in paths.iter().filter(|_| operation.is_null()) {
                let (code, answer) = node.ask(&format!("{} {path}", method.to_uppercase()), "{}");
                assert_eq!(code, 405, "{method} {path}: {answer}");
            }
            if operation.is_null() || (method, path.as_str()) == ("delete", "/v1/infra") {
                continue;
            }
            for path in paths {
                actions += 1;
                let (code, answer) = node.ask(&format!("{} {path}", method.to_uppercase()), "{}");
                let told = answer.split_once("\r\n\r\n").unwrap().1;
                assert!(
                    code != 405 && code < 500 && !told.contains("there is nothing here"),
                    "{method} {path}: {answer}"
                );
                assert!(code != 404 || told.contains("no VM"), "{method} {path}: {answer}");
            }
        }
    }
    assert!(actions > 15, "{actions}");
    // Last, as the node ends then.
    assert_eq!(node.ask("DELETE /v1/infra", "").0, 200);
}

#[test]
fn references_in_the_document_lead_somewhere() {
    fn walk(document: &Value, value: &Value, seen: &mut usize) {
        match value {
            Value::Object(map) => {
                if let Some(Value::String(path)) = map.get("$ref") {
                    *seen += 1;
                    assert!(path.starts_with("#/") && document.pointer(&path[1..]).is_some(), "{path}");
                }
                map.values().for_each(|value| walk(document, value, seen));
            }
            Value::Array(list) => list.iter().for_each(|value| walk(document, value, seen)),
            _ => {}
        }
    }
    let (document, mut seen) = (openapi(), 0);
    walk(&document, &document, &mut seen);
    assert!(seen > 10);
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["NodeStatus"]["properties"]["vms"]["items"]["$ref"], "#/components/schemas/VmStatus");
    assert_eq!(schemas["InfraRequest"]["required"], json!(["text", "folder"]));
    assert_eq!(schemas["VmRequest"]["required"], Value::Null);
}

#[test]
fn requests_are_taken_and_refused_with_the_reason() {
    let node = served();
    let status = body(&node.ask("GET /v1/status", "").1);
    assert_eq!((&status["node"], &status["vms"][0]["name"]), (&json!("alone"), &json!("idle")));
    assert_eq!(status["mirrors"][0], {
        let nothing = Value::Null;
        json!({ "name": "disk", "group": "services", "size": 1 << 20, "connection": "plain", "role": nothing,
                "disk": nothing, "peer_disk": nothing, "out_of_sync": nothing })
    });
    for (line, text, code, words) in [
        ("GET /v2", "", 404, "/openapi.json"),
        ("GET /v1/infra", "", 405, "/openapi.json"),
        ("POST /v1/vms/web/stop", "", 404, "no VM 'web'"),
        ("POST /v1/vms/idle/fly", "", 404, "fly"),
        ("POST /v1/vms/idle/stop", "{\"forse\":true}", 400, "forse"),
        ("POST /v1/vms/idle/snapshot", "", 409, "say which snapshot"),
        ("POST /v1/groups/standby", "{\"group\":3}", 400, "string"),
        ("PUT /v1/infra", "{\"text\":\"name = 3\",\"folder\":\"/\"}", 409, "name"),
    ] {
        let (told, answer) = node.ask(line, text);
        assert!(told == code && body(&answer)["error"].as_str().unwrap().contains(words), "{line}: {answer}");
    }
    // Stopping one that doesn't run keeps it so.
    std::fs::create_dir_all(node.config.vms()).unwrap();
    assert_eq!(node.ask("POST /v1/vms/idle/stop", "").0, 200);
    assert!(node.config.vms().join("idle.halted").exists());
    assert_eq!(node.ask("POST /v1/vms/idle/start", "").0, 200);
    assert!(!node.config.vms().join("idle.halted").exists());
}

#[test]
fn over_tcp_only_the_token_opens_anything_but_the_page() {
    let node = served();
    for line in ["GET /v1/status", "GET /openapi.json", "GET /nothing", "DELETE /v1/infra", "POST /v1/vms/idle/stop"] {
        for token in [None, Some("another-token-of-length"), Some(&TOKEN[1..]), Some("")] {
            let (code, answer) = node.ask_tcp(line, token);
            assert!(code == 401 && answer.to_lowercase().contains("www-authenticate: bearer"), "{line}: {answer}");
            assert!(!answer.contains(TOKEN));
        }
    }
    let (code, answer) = node.ask_tcp("GET /v1/status", Some(TOKEN));
    assert_eq!((code, &body(&answer)["node"]), (200, &json!("alone")));
    let (code, page) = node.ask_tcp("GET /", None);
    assert!(code == 200 && page.contains("text/html") && page.contains("content-security-policy"), "{page}");
    // All that it needs is in it.
    let text = page.split_once("\r\n\r\n").unwrap().1;
    assert!(!text.contains("src=") && !text.contains("href=") && !text.contains("//") && !text.contains("innerHTML"));
    for path in ["/v1/status", "/v1/events"] {
        assert!(text.contains(path));
    }
    // A socket that says nothing holds nobody up.
    let _silent = TcpStream::connect(node.tcp).unwrap();
    assert_eq!(node.ask_tcp("GET /v1/events", Some(TOKEN)).0, 200);
}
