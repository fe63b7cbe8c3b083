//! `network`: nameservers that do what bad ones do.

use std::thread;
use std::time::Duration;

use e2e::agent::PATIENCE;
use e2e::nameserver::Does;
use e2e::{Agent, Nameserver, Sandbox};

use crate::network::{RESOLV_CONF, World, waits, world};

#[test]
fn a_nameserver_has_to_answer() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(world) = world(&sandbox, |_| {}) else { return };
    let none = "no nameserver answers . NS: 10.77.0.1";
    world.passes("at the start");
    for (does, failure) in [
        (Does::AnswersNothing, None),
        (Does::ServFail, Some("says SERVFAIL")),
        (Does::NxDomain, None),
        (Does::Refused, Some("says REFUSED")),
        (Does::ForgedFirst, None),
        (Does::Drops, Some(": does not answer within 1 s")),
        (Does::DropsOne, None),
        (Does::Garbage, Some("sends what is no DNS message")),
        (Does::WrongId, Some("sends an answer with a wrong id")),
        (Does::WrongQuestion, Some("sends an answer to another question")),
        (Does::Truncates, None),
        (Does::TruncatesAndHangs, Some("does not answer over TCP within 1 s")),
        (Does::Answers, None),
        (Does::TruncatesAndCloses, Some("over TCP: closed before the answer was complete")),
    ] {
        world.dns.asked();
        world.dns.does(does);
        match failure {
            None => world.passes(&format!("{does:?}")),
            Some(words) => {
                let reason = format!("{none} {words}").replace(" :", "");
                world.fails(&reason);
                world.stays(Some(&reason), Duration::from_millis(1200));
            }
        }
        let over_tcp = world.dns.asked().iter().any(|(_, over_tcp)| *over_tcp);
        assert_eq!(over_tcp, format!("{does:?}").starts_with("Truncates"), "{does:?}");
    }
    // Nobody is there any more: the host says so at once.
    let World { agent, dns, resolv_conf, router, host } = world;
    drop(dns);
    let reason = format!("{none}: connection refused");
    waits(&agent, &reason, |found| found == Some(&reason));
    let dns = Nameserver::new(&router, "10.77.0.1", Does::Answers);
    let world = World { agent, dns, resolv_conf, router, host };
    world.passes("another one");
    world.stays(None, Duration::from_millis(500));
}

#[test]
fn resolv_conf_is_read_again_and_again() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(world) = world(&sandbox, |_| {}) else { return };
    let asks = |name: &str| {
        world.dns.asked();
        world.agent.wait_for(name, PATIENCE, |_| {
            world.dns.asked().iter().all(|(asked, _)| asked == name).then_some(())
        });
    };
    world.passes("at the start");
    asks(".");
    let search = "search default.svc.k8s.test svc.k8s.test k8s.test corp.test\n";
    world.resolv_conf.write(&format!("{RESOLV_CONF}{search}options ndots:5\n"));
    asks("k8s.test.");
    // One good one is enough, wherever it stands; one that is dead before it costs no failure.
    world.resolv_conf.write("nameserver 10.77.0.99\nnameserver 10.77.0.98\nnameserver 10.77.0.1\n");
    thread::sleep(Duration::from_millis(300));
    world.stays(None, Duration::from_secs(2));
    // The fourth is asked by no program of this host.
    world.resolv_conf.write(
        "nameserver 10.77.0.99\nnameserver 10.77.0.98\nnameserver 192.0.2.1\nnameserver 10.77.0.1\n",
    );
    world.router.ip("route add prohibit 192.0.2.0/24");
    world.router.set("ipv4/ip_forward", "1");
    world.fails(
        "no nameserver answers . NS: 10.77.0.99 does not answer within 1 s, 10.77.0.98 does not answer within 1 s, \
         192.0.2.1: host unreachable",
    );
    // Without any, it is the one on this host, which is not there.
    world.resolv_conf.write("# nothing here\n");
    world.fails("no nameserver answers . NS: 127.0.0.1: connection refused");
    let local = Nameserver::new(&world.host, "127.0.0.1", Does::Answers);
    world.passes("127.0.0.1");
    drop(local);
    world.resolv_conf.write(RESOLV_CONF);
    world.passes("as in the beginning");
    drop(world);

    // The operator's own name goes before all others.
    let Some(world) = crate::network::world(&sandbox, |command| {
        command.env("DNS_PROBE_NAME", "Health.example.test");
    }) else {
        return;
    };
    world.dns.does(Does::NxDomain);
    world.passes("a name that is not there");
    let asked = world.dns.asked();
    assert!(
        !asked.is_empty() && asked.iter().all(|(name, _)| name == "Health.example.test."),
        "{asked:?}"
    );
    world.dns.does(Does::ServFail);
    world.fails("no nameserver answers Health.example.test. A: 10.77.0.1 says SERVFAIL");
    drop(world);
    let ended = Agent::try_start_with(&sandbox, |command| {
        command.env("DNS_PROBE_NAME", "http://x");
    });
    let log = ended.err().unwrap().log.join("\n");
    assert!(log.contains("DNS_PROBE_NAME") && log.contains("is not a DNS name"), "{log}");
}
