//! Models by Hugging Face Hub id, through `hf-hub` and the cache that it shares with the Python libraries.
//!
//! The environment variables of those libraries hold: `HF_HOME` and `HF_HUB_CACHE` (where the cache is), `HF_ENDPOINT`
//! (which server), `HF_TOKEN` (for private and gated models; else the token that `hf auth login` stored), and
//! `HF_HUB_OFFLINE` (1: the cache only).

use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Turns what the user gave as a model into a path: an existing file or folder is taken as it is; anything else that looks
/// like a Hub id ("owner/name") is fetched into the cache, unless it is there.
///
/// Of a model repository: config.json, generation_config.json, the tokenizer and chat template files, and the
/// safetensors weights; of an adapter's or a delta's repository: its settings and weights. `revision` is a branch, tag or commit
/// ("main" if None) and has no meaning for a path.
///
/// # Errors
/// [`Error::Model`] when it is neither a path nor an id; [`Error::Config`] for a revision of a path; [`Error::Hub`]
/// when the Hub cannot deliver (not found, gated, offline) and the cache does not have it, saying what to do; [`Error::Unsupported`] in a
/// build without the feature `hub`.
pub fn resolve(path_or_id: &str, revision: Option<&str>) -> Result<PathBuf> {
    let path = Path::new(path_or_id);
    if path.exists() {
        return match revision {
            None => Ok(path.to_path_buf()),
            Some(_) => Err(Error::config("revision", format!("has no meaning for the path '{path_or_id}'"))),
        };
    }
    if !is_repo_id(path_or_id) {
        return Err(Error::model(
            path_or_id,
            "there is no such file or folder, and it is no Hub id (owner/name) either",
        ));
    }
    imp::fetch(path_or_id, revision.unwrap_or("main"))
}

/// Whether a text has the form of a repository id: a name, or two with a slash between.
fn is_repo_id(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let name = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.chars().all(allowed)
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
            && !part.contains("--")
            && !part.contains("..")
    };
    let is_file = [".gguf", ".safetensors", ".json"].iter().any(|e| text.ends_with(e));
    text.split('/').count() <= 2 && text.split('/').all(name) && !is_file
}

#[cfg(not(feature = "hub"))]
mod imp {
    use super::*;

    pub(super) fn fetch(id: &str, _revision: &str) -> Result<PathBuf> {
        Err(Error::unsupported(
            format!("the Hub id '{id}'"),
            "this build lacks the feature `hub`: build with --features hub, or download the model and give its folder",
        ))
    }
}

#[cfg(feature = "hub")]
mod imp {
    use std::collections::BTreeSet;

    use hf_hub::api::sync::{Api, ApiBuilder, ApiError};
    use hf_hub::{Cache, Repo, RepoType};

    use super::*;
    use crate::formats::json::read_json;

    /// Small files that are fetched when the repository has them.
    const SETTINGS: [&str; 12] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "adapter_config.json",
        "delta_config.json",
    ];
    const SINGLE: &str = "model.safetensors";
    const INDEX: &str = "model.safetensors.index.json";
    const ADAPTER: &str = "adapter_model.safetensors";
    const DELTA: &str = "delta.safetensors";
    /// How often a broken download is taken up again.
    const RETRIES: usize = 3;

    pub(super) fn fetch(id: &str, revision: &str) -> Result<PathBuf> {
        let cache = cache(id)?;
        if env("HF_HUB_OFFLINE")
            .is_some_and(|v| matches!(v.to_lowercase().as_str(), "1" | "true" | "yes" | "on"))
        {
            return cached(&cache, id, revision).ok_or_else(|| {
                hub(id, "HF_HUB_OFFLINE is set, and the cache does not have the model; unset it, or give a local folder")
            });
        }
        let mut builder = ApiBuilder::from_cache(cache.clone())
            .with_retries(RETRIES)
            .with_user_agent("warptune", env!("CARGO_PKG_VERSION"));
        if let Some(endpoint) = env("HF_ENDPOINT") {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        if let Some(token) = env("HF_TOKEN") {
            builder = builder.with_token(Some(token));
        }
        let api = builder.build().map_err(|e| hub(id, e.to_string()))?;
        let asked = Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned());
        let info = match api.repo(asked.clone()).info().map_err(Failure::from) {
            Ok(info) => info,
            // No connection, or no answer that makes sense: what is in the cache is better than nothing.
            Err(failure) if failure.status.is_none() => {
                return cached(&cache, id, revision).ok_or_else(|| failure.explain(id, revision));
            }
            Err(failure) => return Err(failure.explain(id, revision)),
        };
        let files: BTreeSet<&str> = info.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        let download = Download { api: &api, cache: &cache, id, commit: &info.sha };
        let folder = download.model(&files)?;
        // Under the name that was asked for, so that it is found without a network.
        cache
            .repo(asked)
            .create_ref(&info.sha)
            .map_err(Error::io(&folder, "cannot record the revision of"))?;
        Ok(folder)
    }

    /// One commit of a repository on its way into the cache.
    struct Download<'a> {
        api: &'a Api,
        cache: &'a Cache,
        id: &'a str,
        commit: &'a str,
    }

    impl Download<'_> {
        /// Fetches what a model, an adapter or a delta needs; returns the folder.
        fn model(&self, files: &BTreeSet<&str>) -> Result<PathBuf> {
            // The commit becomes a folder name in the cache.
            if self.commit.is_empty() || !self.commit.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(hub(
                    self.id,
                    format!("the server named the commit '{}', which is none", self.commit),
                ));
            }
            let folder = snapshot(self.cache, self.id, self.commit);
            for name in SETTINGS.into_iter().filter(|name| files.contains(name)) {
                self.file(&folder, name)?;
            }
            if files.contains(SINGLE) {
                self.file(&folder, SINGLE)?;
            } else if files.contains(INDEX) {
                self.file(&folder, INDEX)?;
                for shard in shards(&folder.join(INDEX))? {
                    self.file(&folder, &shard)?;
                }
            } else if files.contains(ADAPTER) {
                self.file(&folder, ADAPTER)?;
            } else if files.contains(DELTA) {
                self.file(&folder, DELTA)?;
            } else {
                let found = if files.iter().any(|f| f.ends_with(".gguf")) {
                    "has GGUF files only: download one of them and give its path"
                } else if files.iter().any(|f| f.ends_with(".bin")) {
                    "has PyTorch pickles only: load the model with transformers and save it with safe_serialization=True"
                } else {
                    "has no safetensors weights"
                };
                return Err(hub(self.id, found));
            }
            Ok(folder)
        }

        /// Fetches one file unless it is there.
        fn file(&self, folder: &Path, name: &str) -> Result<()> {
            if folder.join(name).exists() {
                return Ok(());
            }
            // By commit, so that all files are of the same one even if the branch moves meanwhile.
            let repo = Repo::with_revision(self.id.to_owned(), RepoType::Model, self.commit.to_owned());
            let path =
                self.api.repo(repo).download(name).map_err(|e| Failure::from(e).explain(self.id, name))?;
            if path == folder.join(name) {
                Ok(())
            } else {
                Err(hub(self.id, format!("the server gave '{name}' of another commit than it was asked for")))
            }
        }
    }

    /// The folder of a revision in the cache, if everything that a model needs is there.
    fn cached(cache: &Cache, id: &str, revision: &str) -> Option<PathBuf> {
        let repo = cache.path().join(Repo::model(id.to_owned()).folder_name());
        let commit =
            std::fs::read_to_string(repo.join("refs").join(revision)).unwrap_or_else(|_| revision.to_owned());
        let folder = snapshot(cache, id, commit.trim());
        let has = |name: &str| folder.join(name).exists();
        let complete = if has("adapter_config.json") {
            has(ADAPTER)
        } else if has("delta_config.json") {
            has(DELTA)
        } else if has(INDEX) && !has(SINGLE) {
            has("config.json")
                && shards(&folder.join(INDEX)).is_ok_and(|shards| shards.iter().all(|s| has(s)))
        } else {
            has("config.json") && has(SINGLE)
        };
        complete.then_some(folder)
    }

    fn snapshot(cache: &Cache, id: &str, commit: &str) -> PathBuf {
        cache.path().join(Repo::model(id.to_owned()).folder_name()).join("snapshots").join(commit)
    }

    /// The files that an index names; a name with a folder in it is refused, for it could lead out of the cache.
    fn shards(index: &Path) -> Result<BTreeSet<String>> {
        let map = read_json(index)?;
        let names = map.get("weight_map").and_then(|m| m.as_object()).into_iter().flat_map(|m| m.values());
        names
            .map(|name| match name.as_str() {
                Some(name) if Path::new(name).file_name().is_some_and(|f| f == name) => Ok(name.to_owned()),
                _ => Err(Error::format_key(index, "weight_map", format!("{name} is not the name of a file"))),
            })
            .collect()
    }

    fn cache(id: &str) -> Result<Cache> {
        if let Some(folder) = env("HF_HUB_CACHE") {
            return Ok(Cache::new(folder.into()));
        }
        if env("HF_HOME").is_none() && std::env::home_dir().is_none_or(|home| home.as_os_str().is_empty()) {
            return Err(hub(id, "there is no home folder for the cache; set HF_HOME"));
        }
        Ok(Cache::from_env())
    }

    /// A variable that is set and not empty.
    fn env(name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|v| !v.is_empty())
    }

    fn hub(id: &str, detail: impl Into<String>) -> Error {
        Error::Hub { repo: id.to_owned(), detail: detail.into() }
    }

    /// What went wrong with a request.
    struct Failure {
        /// The HTTP status, if the server answered at all.
        status: Option<u16>,
        text: String,
    }

    impl From<ApiError> for Failure {
        fn from(error: ApiError) -> Failure {
            let text = error.to_string();
            let status = match error {
                ApiError::RequestError(e) => (*e).into_response().map(|response| response.status()),
                ApiError::TooManyRetries(inner) => Failure::from(*inner).status,
                _ => None,
            };
            Failure { status, text }
        }
    }

    impl Failure {
        fn explain(self, id: &str, what: &str) -> Error {
            let endpoint = env("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
            let detail = match self.status {
                Some(401) => format!(
                    "{endpoint} does not know it, or it is private: check the id, and set HF_TOKEN if you have access"
                ),
                Some(403) => "it is gated: accept its terms on the Hub and set HF_TOKEN".to_owned(),
                Some(404) => format!("{endpoint} has no '{what}' of it: check the id and the revision"),
                Some(code) => format!("{endpoint} answered with status {code} for '{what}'; try again later"),
                None => format!(
                    "cannot get '{what}' from {endpoint} ({}), and the cache does not have it; check the network, set \
                     HF_ENDPOINT to a mirror, or download the model elsewhere and give its folder",
                    self.text
                ),
            };
            hub(id, detail)
        }
    }
}
