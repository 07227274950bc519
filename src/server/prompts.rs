//! `POST /v1/prompts`: demonstrations for an input, and the prompt that they make.
//!
//! Most of a request is encoding its text, which takes a static encoder microseconds and a BERT tens of milliseconds: so what requests
//! have taken is what the next one is taken to cost when it asks for a worker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::admission::Average;
use super::parse;
use super::problem::Problem;
use super::routes::{Answer, Shared, json_body, json_response};
use super::service::{Context, Service, WorkerState, json};
use crate::encoder::Encoder;
use crate::error::{Error, Result};
use crate::prompts::{PromptIndex, PromptNote, assemble};

/// Demonstrations where a request does not say: as many as in the paper.
const USUAL: usize = 3;
/// The most that are sent.
const MOST: usize = 100;
/// What a request is taken to cost before there has been one, in nanoseconds: little, so that a fresh server turns nobody away.
const FIRST_COST: f64 = 1e6;

/// `[prompts]`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct PromptsSection {
    pub pool: PathBuf,
    pub name: String,
}

/// A pool of demonstrations that is served.
#[derive(Debug)]
pub(super) struct Demonstrations {
    index: PromptIndex,
    /// Nanoseconds that requests have taken on a worker.
    cost: Average,
}

impl PromptsSection {
    /// Opens the pool, if there is one; with the encoder of queries, if that is the pool's, too.
    ///
    /// # Errors
    /// As [`PromptIndex::open`].
    pub(super) fn open(&self, encoder: Option<&Arc<Encoder>>) -> Result<Option<Demonstrations>> {
        if self.pool.as_os_str().is_empty() {
            return Ok(None);
        }
        let note = PromptNote::read(&self.pool)?;
        let index = match encoder.filter(|encoder| note.fits(encoder)) {
            Some(encoder) => PromptIndex::open_with(&self.pool, &self.name, encoder.clone())?,
            None => PromptIndex::open(&self.pool, &self.name, None)?,
        };
        Ok(Some(Demonstrations { index, cost: Average::new(FIRST_COST) }))
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
    let cost = service.prompts.as_ref().map_or(FIRST_COST, |served| served.cost.get());
    let task = move |service: &Service, context: &Context, _: &mut WorkerState| {
        let request: PromptsRequest = parse::json(&body)?;
        let Some(served) = &service.prompts else { return Err(absent()) };
        let begun = Instant::now();
        let answer = answer(&served.index, &request, &context.request_id, service.deadline(context))?;
        served.cost.observe(begun.elapsed().as_nanos() as f64);
        Ok(answer)
    };
    Ok(json_response(service.on_worker_for(Duration::from_nanos(cost as u64), context, task).await?))
}

fn late() -> Problem {
    let remedy = "send it again when the server is less busy, or raise timeouts.search_ms";
    let detail = "the deadline passed before all demonstrations were looked at";
    Problem::new(StatusCode::GATEWAY_TIMEOUT, "deadline_exceeded", detail, remedy)
}

fn absent() -> Problem {
    let remedy = "set prompts.pool to a folder that `bigrain prompts index` made";
    Problem::new(StatusCode::NOT_FOUND, "no_prompts", "this server has no pool of demonstrations", remedy)
}

fn answer(
    index: &PromptIndex,
    request: &PromptsRequest,
    request_id: &str,
    deadline: Instant,
) -> std::result::Result<Vec<u8>, Problem> {
    let k = request.k.unwrap_or(USUAL);
    if k == 0 || k > MOST {
        return Err(Problem::meaning("k_out_of_range", "/k", format!("k is {k}"), format!("send 1 to {MOST}")));
    }
    let found = index.retrieve_until(&request.text, k, deadline).map_err(|error| match error {
        Error::InvalidParams { reason, .. } => {
            Problem::meaning("text_not_encodable", "/text", reason, "send a few words")
        }
        other => other.into(),
    })?;
    let Some(found) = found else { return Err(late()) };
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
    fn with_server(
        change: impl FnOnce(&mut ServerConfig),
        client: impl FnOnce(SocketAddr) + Send + 'static,
    ) -> Arc<Service> {
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
            serve(listener, async { drop(signal.await) }, service.clone()).await;
            client.join().unwrap();
        });
        service
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
        assert!(section.open(None).unwrap_err().to_string().contains("no-such-folder"));
    }
    #[test]
    fn requests_cost_what_they_have_taken() {
        let service = with_server(
            |_| {},
            |address| {
                for _ in 0..5 {
                    assert_eq!(post(address, &json!({"text": "red hat"})).0, 200);
                }
            },
        );
        let served = service.prompts.as_ref().unwrap();
        assert!(served.cost.get() > 0.0 && served.cost.get() != FIRST_COST, "nothing was learned of five requests");
    }

    #[test]
    fn an_encoder_that_is_open_already_is_shared() {
        let dir = tempfile::tempdir().unwrap();
        drop(made_pool(dir.path()));
        let section = PromptsSection { pool: dir.path().join("pool"), name: "untuned".into() };
        let note = PromptNote::read(&section.pool).unwrap();
        let open = |max_tokens| {
            let options = crate::encoder::EncoderOptions { max_tokens: Some(max_tokens) };
            Arc::new(Encoder::open_with(&dir.path().join("encoder"), options).unwrap())
        };
        let (same, other) = (open(note.max_tokens), open(note.max_tokens - 1));
        let (_first, _second) = (section.open(Some(&same)).unwrap(), section.open(Some(&other)).unwrap());
        assert_eq!((Arc::strong_count(&same), Arc::strong_count(&other)), (2, 1));
    }
}
