//! The first response of an agent that has just started has the faults that happened before.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::Command;
use std::thread;
use std::time::Instant;

use e2e::agent::{TIMEOUT, quick_stalls};
use e2e::faulty_disk::{EVERYWHERE, Errno, Operation};
use e2e::health::Health;
use e2e::http::{Connection, Response};
use e2e::sandbox::say;
use e2e::{Agent, Filesystem, MIB, Sandbox, Volume, inject, require};

use crate::io_stall::hang_all;
use crate::names;

/// Starts an agent on a port to which a client tries to connect all the time, and gives the first response.
fn first_response(sandbox: &Sandbox, change: impl FnOnce(&mut Command)) -> (Agent, Response) {
    // Free now, and most likely so when the agent binds it.
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let start = Instant::now();
    let connecting = thread::spawn(move || {
        loop {
            if let Ok(response) = Connection::open(address).and_then(|mut open| open.get("/health"))
            {
                return (response, start.elapsed());
            }
            assert!(start.elapsed() < TIMEOUT, "no response");
        }
    });
    let agent = Agent::start_with(sandbox, |command| {
        command.env("LISTEN_PORT", address.port().to_string());
        change(command);
    });
    let (response, took) = connecting.join().unwrap();
    say(&format!("MEASURED {}: first response {} after {took:?}", sandbox.name(), response.status));
    (agent, response)
}

/// The first response is 503 with a reason that names the volume; it is 200 after the unmount.
fn is_in_the_first_response(sandbox: &Sandbox, volume: &mut Volume, check: &str) {
    let (agent, response) = first_response(sandbox, |_| {});
    let health = Health::read(&response);
    let reason = health.failure(check).unwrap_or_else(|| agent.fail(&response.body));
    for name in names(volume) {
        assert!(reason.contains(&name), "{name} is not in {reason:?}");
    }
    volume.control_if_breakable().into_iter().for_each(e2e::faulty_disk::Control::heal);
    let at = Instant::now();
    volume.unmount();
    agent.wait_recovery(at, TIMEOUT);
}

#[test]
fn ext4_error() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    inject::ext4_error(volume.device());
    is_in_the_first_response(&sandbox, &mut volume, "filesystem_ro");
}

#[test]
fn ext4_journal_lost() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "errors=remount-ro");
    for range in inject::ext4_ranges(volume.device(), "<8>") {
        volume.control().fail(Operation::Write, Errno::EIO, range);
    }
    inject::write_synced(&volume.path("file"), 4096).unwrap_err();
    fs::write(volume.path("other"), "x").unwrap_err();
    is_in_the_first_response(&sandbox, &mut volume, "filesystem_ro");
}

#[test]
fn ext4_shutdown() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    inject::shut_down(volume.point());
    is_in_the_first_response(&sandbox, &mut volume, "filesystem_ro");
}

#[test]
fn xfs_shutdown() {
    if !require(Filesystem::Xfs.is_available(), "no xfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Xfs, "");
    inject::shut_down(volume.point());
    is_in_the_first_response(&sandbox, &mut volume, "filesystem_ro");
}

#[test]
fn btrfs_forced_read_only() {
    if !require(Filesystem::Btrfs.is_available(), "no btrfs here") {
        return;
    }
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Btrfs, "");
    volume.control().fail(Operation::Write, Errno::EIO, EVERYWHERE);
    fs::write(volume.path("file"), "").unwrap();
    inject::sync(volume.point()).unwrap_err();
    is_in_the_first_response(&sandbox, &mut volume, "filesystem_ro");
}

#[test]
fn a_stall() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::breakable(&sandbox, "vol", Filesystem::Ext4, "");
    let device = volume.device().path();
    thread::scope(|scope| {
        let _hang = hang_all(&volume);
        let reader = scope.spawn(|| inject::read_block(&device, 32 * MIB));
        let volume = &volume;
        while volume.control().hanging() == 0 {
            assert!(!reader.is_finished());
            thread::yield_now();
        }
        let (agent, response) = first_response(&sandbox, quick_stalls);
        let health = Health::read(&response);
        let reason = health.failure("io_stall").unwrap_or_else(|| agent.fail(&response.body));
        for name in names(volume) {
            assert!(reason.contains(&name), "{name} is not in {reason:?}");
        }
        volume.control().heal();
        agent.wait_recovery(Instant::now(), TIMEOUT);
    });
    volume.unmount();
}

#[test]
fn read_only_on_purpose_unless_it_is_required_writable() {
    let Some(sandbox) = Sandbox::new() else { return };
    let mut volume = Volume::new(&sandbox, "vol", Filesystem::Ext4, "");
    volume.unmount();
    volume.mount_with(rustix::mount::MountFlags::RDONLY, "");
    let (agent, response) = first_response(&sandbox, |_| {});
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(agent.faults().is_empty());
    drop(agent);

    let agent = Agent::start_with(&sandbox, |command| {
        command.env("REQUIRE_WRITABLE", format!("/not-there,{}", volume.point_text()));
    });
    let [device, point] = names(&volume);
    agent.wait_failure(Instant::now(), "filesystem_ro", &[&device, &point]);
    volume.mounted().remount(rustix::mount::MountFlags::empty(), "");
    agent.wait_recovery(Instant::now(), TIMEOUT);
}
