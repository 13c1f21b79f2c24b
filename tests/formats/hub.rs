//! The Hub, played by a small HTTP server on loopback, with a cache of its own.
//!
//! The environment belongs to the whole process, so each case runs this test binary again with its own variables.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::json;
use warptune::formats::hub::resolve;

use super::golden;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// Set in the child: the id to resolve; the child prints what came of it.
const CHILD: &str = "WARPTUNE_TEST_HUB_ID";
const REVISION: &str = "WARPTUNE_TEST_HUB_REVISION";

/// A server of one model repository.
struct Server {
    endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
}

type Files = BTreeMap<String, Vec<u8>>;

impl Server {
    /// Serves `files` as "owner/model" and, gated, as "owner/gated".
    fn start(files: Files) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let _ = answer(stream, &files, &log);
            }
        });
        Server { endpoint, requests }
    }

    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.requests.lock().unwrap())
    }
}

/// Answers one request and closes.
fn answer(stream: TcpStream, files: &Files, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(": ") else { break };
        match name.to_lowercase().as_str() {
            "range" => range = Some(value.trim_start_matches("bytes=").to_owned()),
            "authorization" => token = Some(value.to_owned()),
            _ => {}
        }
    }
    log.lock().unwrap().push(path.clone());
    let (status, headers, body) = if path.contains("owner/gated") && token.as_deref() != Some("Bearer secret")
    {
        ("403 Forbidden", String::new(), vec![])
    } else if path == "/api/models/owner/model/revision/main"
        || path == "/api/models/owner/gated/revision/main"
    {
        let siblings: Vec<_> = files.keys().map(|name| json!({"rfilename": name})).collect();
        ("200 OK", String::new(), json!({"sha": COMMIT, "siblings": siblings}).to_string().into_bytes())
    } else if let Some(content) =
        path.split_once(&format!("/resolve/{COMMIT}/")).and_then(|(_, name)| files.get(name))
    {
        let (start, end) = range.as_deref().and_then(|r| r.split_once('-')).unwrap_or(("0", ""));
        let start: usize = start.parse().unwrap();
        let end = end.parse::<usize>().map_or(content.len(), |end| (end + 1).min(content.len()));
        let headers = format!(
            "Content-Range: bytes {start}-{}/{}\r\nETag: \"{:016x}\"\r\nx-repo-commit: {COMMIT}\r\n",
            end.saturating_sub(1),
            content.len(),
            content.iter().fold(path.len() as u64, |h, &b| h.wrapping_mul(31).wrapping_add(b.into())),
        );
        ("206 Partial Content", headers, content[start..end].to_vec())
    } else {
        ("404 Not Found", String::new(), vec![])
    };
    let mut out = stream;
    write!(out, "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    out.write_all(&body)
}

/// The part that runs in the child.
#[test]
fn child() {
    let Ok(id) = std::env::var(CHILD) else { return };
    match resolve(&id, std::env::var(REVISION).ok().as_deref()) {
        Ok(path) => println!("\nRESOLVED {}", path.display()),
        Err(e) => println!("\nREFUSED {e}"),
    }
}

/// What `resolve` says with these variables.
fn resolve_with(id: &str, home: &Path, variables: &[(&str, &str)]) -> Result<PathBuf, String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "formats::hub::child", "--nocapture"]);
    for name in [
        "HF_HUB_CACHE",
        "HF_TOKEN",
        "HF_HUB_OFFLINE",
        "HF_ENDPOINT",
        "http_proxy",
        "HTTP_PROXY",
        "ALL_PROXY",
        "all_proxy",
    ] {
        command.env_remove(name);
    }
    command.env(CHILD, id).env("HF_HOME", home).envs(variables.iter().copied());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |mark: &str| text.lines().find_map(|l| l.strip_prefix(mark).map(str::to_owned));
    match (line("RESOLVED "), line("REFUSED ")) {
        (Some(path), None) => Ok(path.into()),
        (None, Some(error)) => Err(error),
        _ => panic!("{text}\n{}", String::from_utf8_lossy(&output.stderr)),
    }
}

fn model_files() -> Files {
    let read = |name: &str| std::fs::read(golden(&format!("gguf/llama/{name}"))).unwrap();
    let text = |s: &str| s.as_bytes().to_vec();
    BTreeMap::from([
        ("config.json".into(), read("config.json")),
        ("model.safetensors".into(), read("model.safetensors")),
        ("tokenizer.json".into(), text("{}")),
        ("chat_template.jinja".into(), text("{{ messages }}")),
        ("README.md".into(), text("no")),
        ("onnx/model.onnx".into(), text("no")),
    ])
}

#[test]
fn a_model_is_fetched_once_and_found_offline() {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(model_files());
    let endpoint = ("HF_ENDPOINT", server.endpoint.as_str());
    let folder = resolve_with("owner/model", home.path(), &[endpoint]).unwrap();
    assert!(folder.starts_with(home.path()) && folder.ends_with(COMMIT), "{}", folder.display());
    for (name, content) in model_files() {
        let wanted = !["README.md", "onnx/model.onnx"].contains(&name.as_str());
        assert_eq!(std::fs::read(folder.join(&name)).ok(), wanted.then_some(content), "{name}");
    }
    warptune::formats::Checkpoint::open(&folder).unwrap();
    assert!(server.requests().len() > 4);

    // Again: one question whether it has changed, no download.
    assert_eq!(resolve_with("owner/model", home.path(), &[endpoint]).unwrap(), folder);
    assert_eq!(server.requests(), ["/api/models/owner/model/revision/main"]);

    // Offline, by request and for want of a server.
    let offline = resolve_with("owner/model", home.path(), &[endpoint, ("HF_HUB_OFFLINE", "1")]);
    assert_eq!((offline, server.requests().len()), (Ok(folder.clone()), 0));
    let dead = ("HF_ENDPOINT", "http://127.0.0.1:1");
    assert_eq!(resolve_with("owner/model", home.path(), &[dead]), Ok(folder));

    // What the cache does not have.
    let error = resolve_with("owner/other", home.path(), &[endpoint, ("HF_HUB_OFFLINE", "1")]).unwrap_err();
    assert!(error.contains("hub: owner/other") && error.contains("HF_HUB_OFFLINE is set"), "{error}");
    let error = resolve_with("owner/other", home.path(), &[dead]).unwrap_err();
    assert!(error.contains("http://127.0.0.1:1") && error.contains("give its folder"), "{error}");
    let error = resolve_with("owner/other", home.path(), &[endpoint]).unwrap_err();
    assert!(error.contains("has no 'main' of it: check the id"), "{error}");
    let error = resolve_with("owner/model", home.path(), &[endpoint, (REVISION, "v9")]).unwrap_err();
    assert!(error.contains("has no 'v9' of it"), "{error}");
}

#[test]
fn shards_and_tokens() {
    let home = tempfile::tempdir().unwrap();
    let mut files = model_files();
    let weights = files.remove("model.safetensors").unwrap();
    let index = json!({"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}});
    files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    files.insert("model-00001-of-00001.safetensors".into(), weights);
    let server = Server::start(files);
    let endpoint = ("HF_ENDPOINT", server.endpoint.as_str());
    let folder = resolve_with("owner/model", home.path(), &[endpoint]).unwrap();
    warptune::formats::Checkpoint::open(&folder).unwrap();

    let error = resolve_with("owner/gated", home.path(), &[endpoint]).unwrap_err();
    assert!(error.contains("it is gated") && error.contains("HF_TOKEN"), "{error}");
    resolve_with("owner/gated", home.path(), &[endpoint, ("HF_TOKEN", "secret")]).unwrap();
}

#[test]
fn an_index_that_leads_out_of_the_cache_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let mut files = model_files();
    files.remove("model.safetensors");
    let index = json!({"weight_map": {"w": "../../../../evil"}});
    files.insert("model.safetensors.index.json".into(), index.to_string().into_bytes());
    files.insert("../../../../evil".into(), b"x".to_vec());
    let server = Server::start(files);
    let error = resolve_with("owner/model", home.path(), &[("HF_ENDPOINT", &server.endpoint)]).unwrap_err();
    assert!(error.contains("is not the name of a file"), "{error}");
}

#[test]
fn repositories_without_safetensors_say_what_they_have() {
    let home = tempfile::tempdir().unwrap();
    for (file, expected) in
        [("a.gguf", "GGUF files only"), ("pytorch_model.bin", "pickles only"), ("x", "no safetensors")]
    {
        let server = Server::start(BTreeMap::from([(file.to_owned(), vec![])]));
        let error =
            resolve_with("owner/model", home.path(), &[("HF_ENDPOINT", &server.endpoint)]).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn paths_come_first_and_typos_are_no_ids() {
    let folder = golden("gguf");
    assert_eq!(resolve(folder.to_str().unwrap(), None).unwrap(), folder);
    assert!(resolve(folder.to_str().unwrap(), Some("main")).unwrap_err().to_string().contains("'revision'"));
    for typo in
        ["./model", "/no/such/model", "a/b/c", "model.gguf", "owner/model.safetensors", "../x", "a--b/c", ""]
    {
        let error = resolve(typo, None).unwrap_err().to_string();
        assert!(error.contains("no such file or folder"), "{typo}: {error}");
    }
}
