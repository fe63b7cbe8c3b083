//! Loads the object file with the programs, and attaches the hooks one by one; each is optional.

use std::{io, os::fd::AsFd, path::Path, sync::Arc, thread};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, PerCpuHashMap, RingBuf},
    programs::{Program, TracePoint, trace_point::TracePointLinkId},
};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    thread::{UnshareFlags, unshare_unsafe},
};
use tocsin_ebpf::Layouts;
use tracing::{debug, info, warn};

use super::{
    hooks::{HOOKS, Hook, Wanted, runs_for_errors_alone},
    pins::{PinDir, Pins},
    report::{HookReport, HookState, HookStates, is_attached},
    tracefs::{NoTraceFs, TraceFs},
    wire::{Counts, Uncounted, Wire, with_causes},
};

/// The object file that `build.rs` built; empty with `AYA_BUILD_SKIP=1`.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tocsin-ebpf"));

/// The log of the programs, for debugging; off unless `BPF_LOG` is set.
pub(crate) type ProgramLog = aya_log::EbpfLogger<&'static dyn log::Log>;

/// Why there are no kernel events.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Built with `AYA_BUILD_SKIP=1`.
    #[error("this binary was built without its eBPF programs (AYA_BUILD_SKIP)")]
    NotBuilt,
    /// There is no tracefs to take the offsets of fields from.
    #[error(transparent)]
    TraceFs(#[from] NoTraceFs),
    /// The kernel refused a map or the object.
    #[error("cannot load eBPF: {0}")]
    Load(String),
    /// The object has no such map: it does not belong to this binary.
    #[error("the eBPF object has no usable map {0}")]
    Map(&'static str),
}

/// The loaded object, and the states of its hooks.
#[expect(missing_debug_implementations, reason = "aya's maps have none")]
pub struct Loader {
    ebpf: Ebpf,
    tracefs: TraceFs,
    layouts: Layouts,
    syscall_hooks: bool,
    states: HookStates,
    /// What is pinned; `None` where nothing is.
    pins: Option<Pins>,
}

impl Loader {
    /// Loads the object. No hook is attached yet.
    pub fn load(
        sys: &Path,
        records_per_second: u32,
        syscall_hooks: bool,
        log: bool,
    ) -> Result<Self, LoadError> {
        if OBJECT.is_empty() {
            return Err(LoadError::NotBuilt);
        }
        let tracefs = TraceFs::open(sys)?;
        if tracefs.is_private() {
            info!("tracefs is not mounted on this host: using a private mount");
        }
        // No program needs BTF relocations, and the kernel's types take 16 MiB to parse.
        let ebpf = EbpfLoader::new()
            .btf(None)
            // 0 turns every log statement into dead code at load time.
            .override_global("AYA_LOG_LEVEL", if log { &5_u8 } else { &0_u8 }, false)
            .load(OBJECT)
            .map_err(|error| LoadError::Load(with_causes(&error)))?;
        let layouts = Layouts { records_per_second, ..Layouts::default() };
        Ok(Self { ebpf, tracefs, layouts, syscall_hooks, states: HookStates::new(), pins: None })
    }

    /// Pins the counters there, and from now on every hook that is attached. Called before the first one is.
    pub(crate) fn pin(&mut self, dir: PinDir) -> Result<(), String> {
        self.pins = Some(Pins::new(dir, &mut self.ebpf)?);
        Ok(())
    }

    /// What is pinned; `None` where nothing is.
    pub(crate) fn pins(&mut self) -> Option<&mut Pins> {
        self.pins.as_mut()
    }

    /// Attaches the hooks that are wanted and not attached yet. Called at the start and every
    /// [`HOOK_RETRY`](crate::kernel::settings::HOOK_RETRY), because modules bring their tracepoints when they are loaded.
    pub fn attach_missing(&mut self) {
        for hook in HOOKS {
            let before = self.states.get(hook.event).map(|(state, _)| *state);
            let stands_in = |other: &Hook| {
                other.wanted == Wanted::Instead(hook.event)
                    && is_attached(&self.states, other.event)
            };
            if before == Some(HookState::Attached) || HOOKS.iter().any(stands_in) {
                continue;
            }
            let (state, detail) = self.try_hook(hook);
            if before.as_ref() != Some(&state) {
                match state {
                    // At the start the agent logs how many are attached; later each one is news.
                    HookState::Attached if before.is_none() => {
                        debug!(hook = hook.name(), "hook attached");
                    }
                    HookState::Attached => info!(hook = hook.name(), "hook attached"),
                    HookState::Missing => info!(hook = hook.name(), detail, "hook missing"),
                    HookState::Disabled => debug!(hook = hook.name(), detail, "hook not used"),
                    HookState::Failed => warn!(hook = hook.name(), detail, "hook left out"),
                }
            }
            self.states.insert(hook.event, (state, detail));
        }
    }

    fn try_hook(&mut self, hook: &Hook) -> (HookState, String) {
        match hook.wanted {
            Wanted::MountHooks if !self.syscall_hooks => {
                return (HookState::Disabled, "MOUNT_HOOKS=poll".into());
            }
            Wanted::Instead(other) if is_attached(&self.states, other) => {
                return (HookState::Disabled, format!("{other} does its work"));
            }
            _ => {}
        }
        let format = match self.tracefs.format(hook.category, hook.event) {
            Ok(Some(format)) => format,
            Ok(None) => return (HookState::Missing, "no such tracepoint (yet)".into()),
            Err(error) => {
                return (HookState::Failed, format!("its format cannot be read: {error}"));
            }
        };
        if let Err(error) = (hook.layout)(&format, &mut self.layouts) {
            return (HookState::Failed, error.to_string());
        }
        match self.attach(hook) {
            Ok(()) => (HookState::Attached, String::new()),
            Err(error) => (HookState::Failed, error),
        }
    }

    fn attach(&mut self, hook: &Hook) -> Result<(), String> {
        let Self { ebpf, tracefs, layouts, pins, .. } = self;
        let map = ebpf.map_mut(".data.layouts").ok_or("no map for the layouts")?;
        let mut global =
            Array::<_, Wire<Layouts>>::try_from(map).map_err(|error| with_causes(&error))?;
        global.set(0, Wire(*layouts), 0).map_err(|error| with_causes(&error))?;
        let program = ebpf.program_mut(hook.event).ok_or("no such program in the object")?;
        let program: &mut TracePoint = program.try_into().map_err(|error| with_causes(&error))?;
        if program.fd().is_err() {
            program.load().map_err(|error| with_causes(&error))?;
        }
        let is_private = tracefs.is_private();
        let attach = |program: &mut TracePoint| {
            let mut attach =
                || program.attach(hook.category, hook.event).map_err(|error| with_causes(&error));
            if is_private { with_tracefs(attach) } else { attach() }
        };
        let link = attach(program)?;
        // What the mount hooks tell is of no use later, and they make every system call slower.
        if hook.wanted != Wanted::MountHooks
            && let Some(pinned) = pins.as_mut().filter(|pins| pins.is_working())
            && let Err(why) = pinned.pin_hook(program, link, hook.event)
        {
            // The attempt has detached it.
            warn!(why, "hooks cannot be pinned: events while no agent runs are not counted");
            attach(program)?;
        }
        Ok(())
    }

    /// How the hooks stand, for the kernel task.
    pub(crate) fn report(&self) -> HookReport {
        let fd = |(_, program): (_, &Program)| {
            program.fd().ok()?.as_fd().try_clone_to_owned().ok().map(Arc::new)
        };
        let programs = self.ebpf.programs().filter(|(name, _)| runs_for_errors_alone(name));
        let programs = programs.filter_map(fd).collect();
        let pinned = self.pins.as_ref().map_or(0, Pins::hooks);
        HookReport::new(self.states.clone(), pinned, programs)
    }

    /// Takes the ring buffer and the counters out of the object; this works once.
    pub(crate) fn take_maps(&mut self) -> Result<(RingBuf<MapData>, Counts, Uncounted), LoadError> {
        let mut take = |name: &'static str| self.ebpf.take_map(name).ok_or(LoadError::Map(name));
        Ok((
            RingBuf::try_from(take("EVENTS")?).map_err(|_| LoadError::Map("EVENTS"))?,
            PerCpuHashMap::try_from(take("COUNTS")?).map_err(|_| LoadError::Map("COUNTS"))?,
            PerCpuArray::try_from(take("UNCOUNTED")?).map_err(|_| LoadError::Map("UNCOUNTED"))?,
        ))
    }

    /// Takes the log of the programs, for `BPF_LOG=true`.
    pub(crate) fn take_log(&mut self) -> Result<ProgramLog, LoadError> {
        ProgramLog::init(&mut self.ebpf).map_err(|_| LoadError::Map("AYA_LOGS"))
    }
}

/// Runs `attach` on a thread that has a tracefs at `/sys/kernel/tracing`, where aya expects it. The thread has a mount
/// namespace of its own that ends with it, so the host's mount table does not change. Mounts that the host removes in the
/// meantime disappear from this namespace as well (`DOWNSTREAM`, that is slave propagation).
fn with_tracefs(
    attach: impl FnOnce() -> Result<TracePointLinkId, String> + Send,
) -> Result<TracePointLinkId, String> {
    let body = move || {
        let enter = || -> rustix::io::Result<()> {
            // SAFETY: only this thread, which ends below, leaves the shared namespace.
            unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
            mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
            mount("tracefs", "/sys/kernel/tracing", "tracefs", MountFlags::empty(), None)
        };
        enter().map_err(|error| format!("private mount of tracefs: {}", io::Error::from(error)))?;
        attach()
    };
    thread::scope(|scope| {
        scope.spawn(body).join().unwrap_or_else(|_| Err("the attaching thread panicked".into()))
    })
}
