use super::*;

fn about() -> About {
    About { name: "nhc".to_owned(), uid: "u".to_owned() }
}

fn acquire(previous: Option<(String, i32)>) -> Purpose {
    Purpose::Action(Action::AcquireLease {
        node: "n0".to_owned(),
        node_uid: "u".to_owned(),
        duration: SignedDuration::from_mins(1),
        previous,
    })
}

fn refusal(store: &Store) -> Option<&str> {
    let refusal = store.world.refused.get(&("nhc".to_owned(), "n0".to_owned()));
    refusal.map(|refusal| refusal.message.as_str())
}

#[test]
fn a_lease_that_is_refused_has_its_reason() {
    for previous in [None, Some(("7".to_owned(), 1))] {
        let (mut jobs, mut store) = (Jobs::default(), Store::default());
        let no = Failure::Refused("leases is forbidden".to_owned());
        jobs.failed("node-n0".to_owned(), &about(), &acquire(previous), &no, &mut store);
        assert_eq!(refusal(&store), Some("leases is forbidden"));
    }
}

#[test]
fn a_namespace_that_cannot_be_made_has_its_reason_and_is_not_tried_without_end() {
    let (mut jobs, mut store) = (Jobs::default(), Store::default());
    store.world.lease_namespace = true;
    let lease = "node-n0".to_owned();
    jobs.failed(lease.clone(), &about(), &acquire(None), &Failure::Missing, &mut store);
    assert!(!store.world.lease_namespace, "it has to be made");
    assert_eq!(refusal(&store), None);
    assert!(
        jobs.waits("node-n0").is_some_and(|wait| wait <= NAMESPACE),
        "and the lease soon after"
    );
    let no = Failure::Refused("namespaces is forbidden".to_owned());
    let make = Purpose::Action(Action::MakeLeaseNamespace);
    jobs.failed(NAMESPACE_OBJECT.to_owned(), &about(), &make, &no, &mut store);
    jobs.failed(lease, &about(), &acquire(None), &Failure::Missing, &mut store);
    assert_eq!(refusal(&store), Some("the namespace of the leases cannot be made"));
}
