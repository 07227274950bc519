//! Load on a running server over HTTP, and what it answers under it: the parts of `load-test`.
//!
//! ```text
//! schedule ------> connection -----> recorder ------> outcome
//! Poisson arrivals keep-alive,       latency from     rates, quantiles, statuses,
//! (open loop) or   waits for a       the intended     sheds, what the client cost
//! next at once     free one          time to send
//! ```
//!
//! # What is measured
//! In an **open loop** requests arrive when the schedule says, whether or not earlier ones were answered, as users do. Latency
//! counts from the moment at which a request should have been sent, so that waiting for a free connection or for a stalled
//! server counts: a server that stops for a second is charged for everyone who came meanwhile. In a **closed loop** each
//! connection sends its next request when the last was answered: it shows the most that so many clients get, and hides
//! stalls, during which it sends nothing.
//!
//! # How the cost of the client is kept apart
//! Client and server may share a machine. So the client is two threads, of which one only sleeps and wakes the other; requests
//! are bytes made before the start; answers are read but not parsed; nothing spins. What remains is reported: the processor time
//! of the client as a share of one core, and how late it started requests that had a free connection. Near a whole core the
//! figures are the client's own; give both sides cores of their own (`taskset`) or use two machines.

mod background;
mod bodies;
mod histogram;
mod http;
mod pace;
mod record;
mod run;
mod saturation;
mod worker;

pub use background::Background;
pub use bodies::{Encoding, Queries, body};
pub use histogram::Histogram;
pub use http::Target;
pub use record::{Outcome, table, warnings};
pub use run::{Load, Plan, probe, run};
pub use saturation::saturation;
