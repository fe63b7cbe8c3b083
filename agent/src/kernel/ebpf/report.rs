//! How the hooks stand: all that the kernel task knows of the loader, which may be away on another thread.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use super::{
    hooks::{BLOCK_HOOKS, HOOKS, Hook},
    reader,
};

/// The state of a hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookState {
    /// Its program runs whenever the tracepoint fires.
    Attached,
    /// This kernel has no such tracepoint, or its module is not loaded yet. The agent tries again.
    Missing,
    /// It is not needed because another hook is attached, or it was not asked for.
    Disabled,
    /// It cannot be attached; the detail says why.
    Failed,
}

impl HookState {
    /// The name in `/faults`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Missing => "missing",
            Self::Disabled => "disabled",
            Self::Failed => "failed",
        }
    }
}

/// A hook and its state, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookStatus {
    /// Category and event, `block:block_rq_error`.
    pub name: String,
    /// Its state.
    pub state: HookState,
    /// Why it is in this state; empty if it is attached.
    pub detail: String,
}

/// The state of each hook by its event, and why it is in that state.
pub(crate) type HookStates = BTreeMap<&'static str, (HookState, String)>;

/// Whether the hook of this event is attached.
pub(crate) fn is_attached(states: &HookStates, event: &str) -> bool {
    matches!(states.get(event), Some((HookState::Attached, _)))
}

/// How the hooks stand.
#[derive(Clone, Debug, Default)]
pub struct HookReport {
    states: HookStates,
    pinned: usize,
    /// The loaded programs, whose counts of missed events can be read while the loader is away.
    programs: Vec<Arc<OwnedFd>>,
}

impl HookReport {
    pub(crate) fn new(states: HookStates, pinned: usize, programs: Vec<Arc<OwnedFd>>) -> Self {
        Self { states, pinned, programs }
    }

    /// Every hook with its state.
    #[must_use]
    pub fn hooks(&self) -> Vec<HookStatus> {
        let status = |hook: &Hook| {
            let (state, detail) =
                self.states.get(hook.event).cloned().unwrap_or((HookState::Missing, String::new()));
            HookStatus { name: hook.name(), state, detail }
        };
        HOOKS.iter().map(status).collect()
    }

    /// Whether the hook of this event is attached.
    #[must_use]
    pub fn is_attached(&self, event: &str) -> bool {
        is_attached(&self.states, event)
    }

    /// Number of hooks that stay attached when this process ends.
    #[must_use]
    pub fn pinned(&self) -> usize {
        self.pinned
    }

    /// Which hooks could not be attached although their tracepoints exist; `None` if there are none.
    #[must_use]
    pub fn failed(&self) -> Option<String> {
        let failed = self.states.iter().filter(|(_, (state, _))| *state == HookState::Failed);
        let failed: Vec<_> = failed.map(|(event, (_, why))| format!("{event}: {why}")).collect();
        (!failed.is_empty()).then(|| format!("kernel hooks are left out: {}", failed.join("; ")))
    }

    /// Why failed block requests are not seen; `None` if they are.
    #[must_use]
    pub fn blind_to_block_errors(&self) -> Option<String> {
        if BLOCK_HOOKS.iter().any(|event| self.is_attached(event)) {
            return None;
        }
        let detail = BLOCK_HOOKS.iter().find_map(|event| self.states.get(event));
        let detail = detail.map(|(_, detail)| detail.clone()).unwrap_or_default();
        Some(format!("failed block requests are not seen: {detail}"))
    }

    /// Number of events for which the kernel did not run a program, because one was running on that CPU already
    /// (`trace_call_bpf` in `kernel/trace/bpf_trace.c`). Linux 6.7 and later count them.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.programs.iter().filter_map(|program| reader::missed(program.as_fd())).sum()
    }
}
