//! What surrounds every request of a server, put together: keys, admission, what is told afterwards.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_rustls::TlsAcceptor;

use super::admission::Admission;
use super::auth::Keys;
use super::config::ServerConfig;
use super::pace::Refusals;
use super::slow_log::{SlowLog, Target};
use super::status::Status;
use super::telemetry::Telemetry;
use crate::error::Result;
use crate::search::Searcher;

/// One of each for a server.
pub(super) struct Platform {
    pub(super) keys: Keys,
    pub(super) admission: Admission,
    pub(super) refusals: Refusals,
    pub(super) slow: SlowLog,
    pub(super) status: Arc<Status>,
    pub(super) telemetry: Telemetry,
    pub(super) tls: Option<TlsAcceptor>,
    /// Where the server listens, once it does.
    pub(super) address: OnceLock<SocketAddr>,
}

impl Platform {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// Keys or certificates that cannot be read or used; a collector's address that is none.
    pub(super) fn start(config: &ServerConfig, searcher: &Searcher) -> Result<Platform> {
        Ok(Platform {
            keys: Keys::load(&config.auth)?,
            admission: Admission::new(config, searcher),
            refusals: Refusals::new(
                config.admission.refusals_per_second,
                Duration::from_millis(config.admission.queue_ms),
            ),
            slow: SlowLog::new(&config.slow_log),
            status: Arc::default(),
            telemetry: Telemetry::start(&config.log)?,
            tls: config.tls.acceptor()?,
            address: OnceLock::new(),
        })
    }

    /// Where slow requests can be sent again: this server, whatever a client called it.
    pub(super) fn target(&self) -> Target {
        let address = self.address.get().copied().unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = match address.ip().is_unspecified() {
            true => SocketAddr::from(([127, 0, 0, 1], address.port())),
            false => address,
        };
        Target { address, encrypted: self.tls.is_some(), with_key: self.keys.asked() }
    }
}
