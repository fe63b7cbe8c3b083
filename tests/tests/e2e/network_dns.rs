//! `network`: nameservers that do not answer, or answer wrongly.

use std::thread;
use std::time::Duration;

use e2e::agent::TIMEOUT;
use e2e::nameserver::Behaviour;
use e2e::{Agent, Nameserver, Sandbox};

use crate::network_gateway::{Network, RESOLV_CONF, start, waits};

/// Waits for so many queries from now on, and gives their names and whether each came over TCP.
fn wait_queries(network: &Network, count: usize) -> Vec<(String, bool)> {
    network.dns.take_queries();
    let mut queries = Vec::new();
    network.agent.wait_for(&format!("{count} queries"), TIMEOUT, |_| {
        queries.extend(network.dns.take_queries());
        (queries.len() >= count).then_some(())
    });
    queries
}

#[test]
fn a_nameserver_that_does_not_answer_fails() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(network) = start(&sandbox, |_| {}) else { return };
    let none = "no nameserver answers . NS: 10.77.0.1";
    network.passes("at the start");
    for (behaviour, failure) in [
        (Behaviour::AnswersNothing, None),
        (Behaviour::ServFail, Some("says SERVFAIL")),
        (Behaviour::NxDomain, None),
        (Behaviour::Refused, Some("says REFUSED")),
        (Behaviour::ForgedFirst, None),
        (Behaviour::Drops, Some(": does not answer within 1 s")),
        (Behaviour::DropsOne, None),
        (Behaviour::Garbage, Some("sends what is no DNS message")),
        (Behaviour::WrongId, Some("sends an answer with a wrong id")),
        (Behaviour::WrongQuestion, Some("sends an answer to another question")),
        (Behaviour::Truncates, None),
        (Behaviour::TruncatesAndHangs, Some("does not answer over TCP within 1 s")),
        (Behaviour::Answers, None),
        (Behaviour::TruncatesAndCloses, Some("over TCP: closed before the answer was complete")),
    ] {
        network.dns.set(behaviour);
        // The first of these may have been sent before; the second one meets this behaviour.
        wait_queries(&network, 2);
        match failure {
            None => network.passes(&format!("{behaviour:?}")),
            Some(words) => {
                let reason = format!("{none} {words}").replace(" :", "");
                network.fails(&reason);
                network.stays(Some(&reason), Duration::from_millis(1200));
            }
        }
        let over_tcp = wait_queries(&network, 3).iter().any(|(_, over_tcp)| *over_tcp);
        assert_eq!(over_tcp, format!("{behaviour:?}").starts_with("Truncates"), "{behaviour:?}");
    }
    // No server on the port: the host refuses at once.
    let Network { agent, dns, resolv_conf, router, host } = network;
    drop(dns);
    let reason = format!("{none}: connection refused");
    waits(&agent, &reason, |found| found == Some(&reason));
    let dns = Nameserver::new(&router, "10.77.0.1", Behaviour::Answers);
    let network = Network { agent, dns, resolv_conf, router, host };
    network.passes("another one");
    network.stays(None, Duration::from_millis(500));
}

#[test]
fn changes_of_resolv_conf_are_read() {
    let Some(sandbox) = Sandbox::new() else { return };
    let Some(network) = start(&sandbox, |_| {}) else { return };
    let asks = |name: &str| {
        network.dns.take_queries();
        network.agent.wait_for(name, TIMEOUT, |_| {
            let queries = network.dns.take_queries();
            let all = queries.iter().all(|(queried, _)| queried == name);
            (!queries.is_empty() && all).then_some(())
        });
    };
    network.passes("at the start");
    asks(".");
    let search = "search default.svc.k8s.test svc.k8s.test k8s.test corp.test\n";
    network.resolv_conf.write(&format!("{RESOLV_CONF}{search}options ndots:5\n"));
    asks("k8s.test.");
    // One nameserver that answers is enough, wherever it stands in the list.
    network
        .resolv_conf
        .write("nameserver 10.77.0.99\nnameserver 10.77.0.98\nnameserver 10.77.0.1\n");
    thread::sleep(Duration::from_millis(300));
    network.stays(None, Duration::from_secs(2));
    // The C library uses three nameservers at most, and so does the check.
    network.resolv_conf.write(
        "nameserver 10.77.0.99\nnameserver 10.77.0.98\nnameserver 192.0.2.1\nnameserver 10.77.0.1\n",
    );
    network.router.ip("route add prohibit 192.0.2.0/24");
    network.router.set("ipv4/ip_forward", "1");
    network.fails(
        "no nameserver answers . NS: 10.77.0.99 does not answer within 1 s, 10.77.0.98 does not answer within 1 s, \
         192.0.2.1: host unreachable",
    );
    // Without a nameserver in the file it is 127.0.0.1, where none runs.
    network.resolv_conf.write("# nothing here\n");
    network.fails("no nameserver answers . NS: 127.0.0.1: connection refused");
    let local = Nameserver::new(&network.host, "127.0.0.1", Behaviour::Answers);
    network.passes("127.0.0.1");
    drop(local);
    network.resolv_conf.write(RESOLV_CONF);
    network.passes("as at the start");
    drop(network);

    // DNS_PROBE_NAME is the name to ask for.
    let Some(network) = start(&sandbox, |command| {
        command.env("DNS_PROBE_NAME", "Health.example.test");
    }) else {
        return;
    };
    network.dns.set(Behaviour::NxDomain);
    network.passes("a name that is not there");
    let asked = network.dns.take_queries();
    assert!(
        !asked.is_empty() && asked.iter().all(|(name, _)| name == "Health.example.test."),
        "{asked:?}"
    );
    network.dns.set(Behaviour::ServFail);
    network.fails("no nameserver answers Health.example.test. A: 10.77.0.1 says SERVFAIL");
    drop(network);
    let ended = Agent::refuses_to_start(&sandbox, |command| {
        command.env("DNS_PROBE_NAME", "http://x");
    });
    let log = ended.log.join("\n");
    assert!(log.contains("DNS_PROBE_NAME") && log.contains("is not a DNS name"), "{log}");
}
