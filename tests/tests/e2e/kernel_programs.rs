//! What the kernel programs cost: none runs for healthy I/O.

use std::fs;

use e2e::{Agent, Filesystem, MIB, Sandbox, Volume, inject};

/// The number of kernel programs that the agent holds, and of their runs by the kernel's own statistics.
fn program_runs(agent: &Agent) -> (u64, u64) {
    let directory = format!("/proc/{}/fdinfo", agent.pid());
    let (mut programs, mut runs) = (0, 0);
    for entry in fs::read_dir(directory).unwrap() {
        let info = fs::read_to_string(entry.unwrap().path()).unwrap_or_default();
        let count = info.lines().find_map(|line| line.strip_prefix("run_cnt:"));
        if let Some(count) = count {
            programs += 1;
            runs += count.trim().parse::<u64>().unwrap();
        }
    }
    (programs, runs)
}

/// Keeps the kernel's statistics of BPF programs on; drop sets them to what they were.
struct Statistics(String);

const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";

impl Statistics {
    fn on() -> Self {
        let before = fs::read_to_string(STATISTICS).unwrap();
        fs::write(STATISTICS, "1").unwrap();
        Self(before)
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _restored = fs::write(STATISTICS, &self.0);
    }
}

/// How many times healthy I/O is tried: each takes some 20 ms.
const ROUNDS: usize = 200;

#[test]
fn healthy_io_runs_no_program() {
    // Alone: the programs also run for the faults of other tests.
    let Some(sandbox) = Sandbox::alone() else { return };
    let volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    let agent = Agent::start(&sandbox);
    let _statistics = Statistics::on();
    let device = volume.device().path();
    // Other programs on this machine may have I/O errors at the same time, but not all the time.
    let quiet = (0..ROUNDS).any(|_| {
        let before = program_runs(&agent);
        assert!(before.0 > 0, "the agent holds no program");
        assert_eq!(inject::read_block_times(&device, 32 * MIB, 1000), 0);
        inject::write_synced(&volume.path("file"), 1 << 20).unwrap();
        program_runs(&agent) == before
    });
    assert!(quiet, "programs ran each time: {:?}", program_runs(&agent));
    let before = program_runs(&agent).1;
    // A fault does run a program: the statistics count.
    inject::ext4_error(volume.device());
    assert!(program_runs(&agent).1 > before);
}
