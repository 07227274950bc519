//! Where a measurement was taken, and what the process occupies.

use serde::Serialize;

use crate::simd::Kernels;

/// The machine and the kernels that run on it.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// Model of the processor, as the system names it.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// Instruction set of the kernels.
    pub simd: &'static str,
}

impl Machine {
    /// This machine.
    pub fn this() -> Machine {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Machine {
            cpu: model.map_or_else(|| std::env::consts::ARCH.to_string(), |(_, name)| name.trim().to_string()),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            simd: Kernels::detect().name,
        }
    }
}

/// Resident memory of this process, bytes; zeros where the system does not tell.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Memory {
    /// Its own: heap, stacks, codes.
    pub anonymous: u64,
    /// Mapped files that happen to be in the page cache; the system takes them back when it needs the room.
    pub file: u64,
}

impl Memory {
    /// What the process occupies now.
    pub fn now() -> Memory {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|l| l.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).map_or(0, |kib| kib << 10)
        };
        Memory { anonymous: field("RssAnon:"), file: field("RssFile:") }
    }
}
