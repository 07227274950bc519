//! `POST /v1/prompts`: demonstrations for an input, and the prompt that they make.

use std::path::PathBuf;

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::parse;
use super::problem::Problem;
use super::routes::{Answer, Shared, json_body, json_response};
use super::service::{Context, Service, WorkerState, json};
use crate::error::{Error, Result};
use crate::prompts::{PromptIndex, assemble};

/// Demonstrations where a request does not say: as many as in the paper.
const USUAL: usize = 3;
/// The most that are sent.
const MOST: usize = 100;

/// `[prompts]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PromptsSection {
    pub pool: PathBuf,
    pub name: String,
}

impl PromptsSection {
    /// Opens the pool, if there is one.
    ///
    /// # Errors
    /// As [`PromptIndex::open`].
    pub fn open(&self) -> Result<Option<PromptIndex>> {
        if self.pool.as_os_str().is_empty() {
            return Ok(None);
        }
        PromptIndex::open(&self.pool, &self.name, None).map(Some)
    }
}

/// What `POST /v1/prompts` is asked.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PromptsRequest {
    /// The input.
    text: String,
    /// Demonstrations; 3 when left out, at most 100.
    k: Option<usize>,
}

/// What it answers.
#[derive(Serialize, ToSchema)]
struct PromptsAnswer<'a> {
    request_id: &'a str,
    /// Best first.
    demonstrations: Vec<DemonstrationAnswer<'a>>,
    /// Worst first, the best next to the input.
    prompt: String,
}

/// A demonstration.
#[derive(Serialize, ToSchema)]
struct DemonstrationAnswer<'a> {
    /// Its number in the pool.
    number: u32,
    score: f32,
    /// Its data set, and the cluster of that.
    task: &'a str,
    cluster: &'a str,
    input: &'a str,
    answer: &'a str,
}

/// Retrieves demonstrations for an input.
#[utoipa::path(post, path = "/v1/prompts", tag = "search", request_body = PromptsRequest,
    responses((status = 200, body = PromptsAnswer)))]
pub(super) async fn prompts(
    State(service): Shared,
    Extension(context): Extension<Context>,
    request: Request,
) -> Answer {
    let body = json_body(&service, request).await?;
    let task = move |service: &Service, context: &Context, _: &mut WorkerState| {
        let request: PromptsRequest = parse::json(&body)?;
        answer(service, &request, &context.request_id)
    };
    Ok(json_response(service.on_worker(context, task).await?))
}

fn answer(service: &Service, request: &PromptsRequest, request_id: &str) -> std::result::Result<Vec<u8>, Problem> {
    let Some(index) = &service.prompts else {
        let remedy = "set prompts.pool to a folder that `bigrain prompts index` made";
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "no_prompts",
            "this server has no pool of demonstrations",
            remedy,
        ));
    };
    let k = request.k.unwrap_or(USUAL);
    if k == 0 || k > MOST {
        return Err(Problem::meaning("k_out_of_range", "/k", format!("k is {k}"), format!("send 1 to {MOST}")));
    }
    let found = index.retrieve(&request.text, k).map_err(|error| match error {
        Error::InvalidParams { reason, .. } => {
            Problem::meaning("text_not_encodable", "/text", reason, "send a few words")
        }
        other => other.into(),
    })?;
    let chosen: Vec<_> = found.iter().map(|hit| hit.demonstration).collect();
    let demonstrations = found.iter().map(|hit| DemonstrationAnswer {
        number: hit.number,
        score: hit.score,
        task: &hit.demonstration.task,
        cluster: &hit.demonstration.cluster,
        input: &hit.demonstration.input,
        answer: &hit.demonstration.answer,
    });
    json(&PromptsAnswer {
        request_id,
        demonstrations: demonstrations.collect(),
        prompt: assemble(&chosen, &request.text),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompts::testing::made_pool;
    use crate::search::{OpenOptions, Searcher};
    use crate::server::{ServerConfig, serve};
    use serde_json::{Value, json};
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Arc;

    /// Status and body of the answer to a POST.
    fn post(address: SocketAddr, body: &Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(address).unwrap();
        let body = body.to_string();
        let head = "POST /v1/prompts HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        let mut came = String::new();
        stream.read_to_string(&mut came).unwrap();
        let (head, body) = came.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    /// Runs `client` against a server of the made pool.
    fn with_server(change: impl FnOnce(&mut ServerConfig), client: impl FnOnce(SocketAddr) + Send + 'static) {
        let dir = tempfile::tempdir().unwrap();
        drop(made_pool(dir.path()));
        let pool = dir.path().join("pool");
        let searcher = Searcher::open(&pool.join("untuned"), &OpenOptions::default()).unwrap();
        let mut config = ServerConfig::default();
        (config.workers.threads, config.prompts.pool) = (1, pool);
        // A machine busy with other tests is slow.
        config.timeouts.search_ms = config.timeouts.search_max_ms;
        change(&mut config);
        let service = Service::start(config, Arc::new(searcher)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (done, signal) = tokio::sync::oneshot::channel::<()>();
            let client = std::thread::spawn(move || {
                client(address);
                drop(done);
            });
            serve(listener, async { drop(signal.await) }, service).await;
            client.join().unwrap();
        });
    }

    #[test]
    fn a_prompt_is_made_of_the_best_and_bad_requests_are_problems() {
        with_server(
            |_| {},
            |address| {
                let (status, answer) = post(address, &json!({"text": "red shoe number 3 ?"}));
                assert_eq!(status, 200, "{answer}");
                let found = answer["demonstrations"].as_array().unwrap();
                assert_eq!(found.len(), USUAL);
                let text = |at: usize| {
                    format!("{}\n{}", found[at]["input"].as_str().unwrap(), found[at]["answer"].as_str().unwrap())
                };
                let expected = format!("{}\n\n{}\n\n{}\n\nred shoe number 3 ?\n", text(2), text(1), text(0));
                assert_eq!(answer["prompt"], expected);
                assert!(
                    found[0]["score"].as_f64() >= found[2]["score"].as_f64() && found[0]["cluster"] != "paraphrase"
                );
                let (status, answer) = post(address, &json!({"text": "blue hat", "k": 1}));
                assert_eq!((status, answer["demonstrations"].as_array().unwrap().len()), (200, 1));
                for (body, code, pointer) in [
                    (json!({"text": " "}), "text_not_encodable", "/text"),
                    (json!({"text": "a", "k": 0}), "k_out_of_range", "/k"),
                    (json!({"text": "a", "n": 3}), "unknown_field", "/n"),
                    (json!({"text": 3}), "invalid_value", "/text"),
                ] {
                    let (status, problem) = post(address, &body);
                    assert_eq!(
                        (status, &problem["code"], &problem["pointer"]),
                        (422, &json!(code), &json!(pointer)),
                        "{problem}"
                    );
                }
            },
        );
    }

    #[test]
    fn a_server_without_a_pool_says_so_and_a_wrong_one_does_not_start() {
        with_server(
            |config| config.prompts.pool = PathBuf::new(),
            |address| {
                let (status, problem) = post(address, &json!({"text": "red"}));
                assert_eq!((status, &problem["code"]), (404, &json!("no_prompts")));
            },
        );
        let section = PromptsSection { pool: "no-such-folder".into(), name: "untuned".into() };
        assert!(section.open().unwrap_err().to_string().contains("no-such-folder"));
    }
}
