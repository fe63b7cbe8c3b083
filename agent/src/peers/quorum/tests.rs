//! Stories of who speaks and what is reported, step by step, as one agent sees them.

use super::*;

/// What happens to a member in a step.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    Alive(&'static str),
    Suspect(&'static str),
    Dead(&'static str),
    Left(&'static str),
    /// Discovery forgets it.
    Forgotten(&'static str),
    /// Others say that they agreed on its death.
    Agreed(&'static str),
    /// `SANITY_CHECK_URL` answers so from now on.
    Sane(bool),
}

use Becomes::{Agreed, Alive, Dead, Forgotten, Left, Sane, Suspect};

/// A step of a story: what happens, then how many milliseconds pass, and what follows until they have passed.
struct Step {
    becomes: &'static [Becomes],
    passes: u64,
    died: &'static [&'static str],
    recovered: &'static [&'static str],
    role: &'static str,
}

const fn step(
    becomes: &'static [Becomes],
    passes: u64,
    died: &'static [&'static str],
    recovered: &'static [&'static str],
    role: &'static str,
) -> Step {
    Step { becomes, passes, died, recovered, role }
}

struct Story {
    name: &'static str,
    own: &'static str,
    sanity: Option<bool>,
    steps: &'static [Step],
}

const ALIVE_4: &[Becomes] = &[Alive("a"), Alive("b"), Alive("c"), Alive("d")];
const ALIVE_3: &[Becomes] = &[Alive("a"), Alive("b"), Alive("c")];

/// A role in a word: what the agent is, and by whom it believes that the cluster is spoken for.
fn word(role: &PeerRole) -> String {
    match role {
        PeerRole::Follower { coordinator } => format!("follows {coordinator}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn tell(story: &Story) {
    let mut now = Instant::now();
    let mut quorum = Quorum::new(story.own.into(), story.sanity.is_some());
    let (mut sight, mut answer) = (Sight::default(), story.sanity);
    for (number, step) in story.steps.iter().enumerate() {
        for becomes in step.becomes {
            let (id, standing) = match *becomes {
                Alive(id) => (id, Standing::Alive),
                Suspect(id) => (id, Standing::Suspect),
                Dead(id) => (id, Standing::Dead(now)),
                Left(id) => (id, Standing::Left),
                Forgotten(id) => {
                    sight.members.remove(id);
                    continue;
                }
                Agreed(id) => {
                    sight.agreed_dead.insert(id.into());
                    continue;
                }
                Sane(is_success) => {
                    answer = Some(is_success);
                    continue;
                }
            };
            sight.members.insert(id.into(), standing);
        }
        let (mut died, mut recovered) = (Vec::new(), Vec::new());
        let end = now + Duration::from_millis(step.passes);
        loop {
            let decision = quorum.decide(now, &sight);
            if decision.asks_sanity {
                quorum.sanity(now, answer.unwrap_or(false));
            }
            died.extend(decision.died);
            recovered.extend(decision.recovered);
            if now >= end {
                break;
            }
            now += Duration::from_millis(100);
        }
        let context = format!("{}, step {number}", story.name);
        assert_eq!(
            died,
            step.died.iter().copied().map(Arc::from).collect::<Vec<Arc<str>>>(),
            "{context}: died"
        );
        assert_eq!(
            recovered,
            step.recovered.iter().copied().map(Arc::from).collect::<Vec<Arc<str>>>(),
            "{context}: recovered"
        );
        assert_eq!(word(quorum.role()), step.role, "{context}");
    }
}

const STORIES: &[Story] = &[
    Story {
        name: "one member alone speaks for itself",
        own: "a",
        sanity: None,
        steps: &[step(&[], 1000, &[], &[], "coordinator")],
    },
    Story {
        name: "a death, seen by the coordinator, and the member's return",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Suspect("b")], 1500, &[], &[], "coordinator"),
            step(&[Dead("b")], 0, &["b"], &[], "coordinator"),
            step(&[], 60_000, &[], &[], "coordinator"),
            step(&[Alive("b")], 1000, &[], &["b"], "coordinator"),
        ],
    },
    Story {
        name: "a suspicion that is refuted",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Suspect("b")], 1500, &[], &[], "coordinator"),
            step(&[Alive("b")], 60_000, &[], &[], "coordinator"),
        ],
    },
    Story {
        name: "the coordinator dies",
        own: "c",
        sanity: None,
        steps: &[
            step(&[Alive("a"), Alive("b"), Alive("d"), Alive("e")], 0, &[], &[], "follows e"),
            // A suspect coordinates still: it may be this agent that hears badly.
            step(&[Suspect("e")], 1500, &[], &[], "follows e"),
            step(&[Dead("e")], 0, &["e"], &[], "follows d"),
            step(&[Alive("e")], 0, &[], &["e"], "follows e"),
        ],
    },
    Story {
        name: "3|2, seen by the side with the majority",
        own: "c",
        sanity: None,
        steps: &[
            step(&[Alive("a"), Alive("b"), Alive("d"), Alive("e")], 0, &[], &[], "follows e"),
            step(&[Suspect("d"), Suspect("e")], 1500, &[], &[], "follows e"),
            step(&[Dead("d"), Dead("e")], 1000, &["d", "e"], &[], "coordinator"),
            step(&[Alive("d"), Alive("e")], 1000, &[], &["d", "e"], "follows e"),
        ],
    },
    Story {
        name: "3|2, seen by the side with the highest identifier, which has no majority",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Suspect("a"), Suspect("b"), Suspect("c")], 400, &[], &[], "coordinator"),
            step(&[], 1100, &[], &[], "isolated"),
            step(&[Dead("a"), Dead("b"), Dead("c")], 60_000, &[], &[], "isolated"),
            step(&[Alive("a"), Alive("b"), Alive("c")], 60_000, &[], &[], "coordinator"),
            // A death after the healing is reported again.
            step(&[Dead("a")], 0, &["a"], &[], "coordinator"),
        ],
    },
    Story {
        name: "healing one after the other: the others have reported who is still away",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Dead("a"), Dead("b"), Dead("c")], 1000, &[], &[], "isolated"),
            step(&[Alive("a")], 3000, &[], &[], "coordinator"),
            step(&[Agreed("b"), Agreed("c")], 30_000, &[], &[], "coordinator"),
            // It agrees on these deaths too, so it tells of their end as the others do.
            step(&[Alive("b"), Alive("c")], 1000, &[], &["b", "c"], "coordinator"),
        ],
    },
    Story {
        name: "all were isolated, and nobody has reported who died meanwhile",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Dead("a"), Dead("b"), Dead("c"), Dead("d")], 1000, &[], &[], "isolated"),
            step(&[Alive("a"), Alive("b"), Suspect("c")], 2000, &[], &[], "coordinator"),
            step(&[Alive("c")], 7900, &[], &[], "coordinator"),
            step(&[], 200, &["d"], &[], "coordinator"),
            // The longer it was, the more was missed.
            step(&[Dead("a"), Dead("b"), Dead("c")], 20_000, &[], &[], "isolated"),
            step(&[Alive("b"), Alive("c")], 44_900, &[], &[], "coordinator"),
            step(&[], 200, &["a"], &[], "coordinator"),
        ],
    },
    Story {
        name: "isolated again before that: the others are asked again",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Dead("a"), Dead("b"), Dead("c"), Dead("d")], 1000, &[], &[], "isolated"),
            step(&[Alive("a"), Alive("b"), Alive("c")], 9000, &[], &[], "coordinator"),
            step(&[Dead("a"), Dead("b")], 60_000, &[], &[], "isolated"),
            step(&[Alive("a"), Alive("b")], 9000, &[], &[], "coordinator"),
            step(&[Agreed("d")], 60_000, &[], &[], "coordinator"),
        ],
    },
    Story {
        name: "an even split without a sanity check: the side with the highest identifier",
        own: "d",
        sanity: None,
        steps: &[
            step(ALIVE_3, 0, &[], &[], "coordinator"),
            step(&[Dead("a"), Dead("b")], 1000, &["a", "b"], &[], "coordinator"),
        ],
    },
    Story {
        name: "an even split without a sanity check: the other side",
        own: "b",
        sanity: None,
        steps: &[
            step(&[Alive("a"), Alive("c"), Alive("d")], 0, &[], &[], "follows d"),
            step(&[Dead("c"), Dead("d")], 60_000, &[], &[], "isolated"),
        ],
    },
    Story {
        name: "an even split with a sanity check that answers",
        own: "b",
        sanity: Some(true),
        steps: &[
            step(&[Alive("a"), Alive("c"), Alive("d")], 0, &[], &[], "follows d"),
            step(&[Dead("c"), Dead("d")], 1500, &["c", "d"], &[], "coordinator"),
        ],
    },
    Story {
        name: "an even split with a sanity check that fails, even with the highest identifier",
        own: "d",
        sanity: Some(false),
        steps: &[
            step(ALIVE_3, 0, &[], &[], "coordinator"),
            step(&[Dead("a"), Dead("b")], 60_000, &[], &[], "isolated"),
        ],
    },
    Story {
        name: "a majority whose sanity check fails blames nobody, and does once it answers",
        own: "e",
        sanity: Some(false),
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Dead("a")], 20_000, &[], &[], "coordinator"),
            step(&[Sane(true)], 6000, &["a"], &[], "coordinator"),
        ],
    },
    Story {
        name: "of two members the one with the highest identifier",
        own: "b",
        sanity: None,
        steps: &[
            step(&[Alive("a")], 0, &[], &[], "coordinator"),
            step(&[Dead("a")], 1000, &["a"], &[], "coordinator"),
            step(&[Alive("a")], 1000, &[], &["a"], "coordinator"),
        ],
    },
    Story {
        name: "of two members the other one",
        own: "a",
        sanity: None,
        steps: &[
            step(&[Alive("b")], 0, &[], &[], "follows b"),
            step(&[Dead("b")], 60_000, &[], &[], "isolated"),
            step(&[Alive("b")], 1000, &[], &[], "follows b"),
        ],
    },
    Story {
        name: "a rolling restart in order",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Left("a")], 5000, &[], &[], "coordinator"),
            step(&[Alive("a"), Left("b")], 5000, &[], &[], "coordinator"),
            step(&[Alive("b"), Left("c")], 5000, &[], &[], "coordinator"),
            step(&[Alive("c"), Left("d")], 5000, &[], &[], "coordinator"),
            step(&[Alive("d")], 5000, &[], &[], "coordinator"),
        ],
    },
    Story {
        name: "all leave in order, and the last one speaks",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Left("a"), Left("b"), Left("c"), Left("d")], 60_000, &[], &[], "coordinator"),
        ],
    },
    Story {
        name: "a restart of all without leave: nobody died for who sees none of them",
        own: "e",
        sanity: None,
        steps: &[
            step(ALIVE_4, 0, &[], &[], "coordinator"),
            step(&[Dead("a"), Dead("b"), Dead("c"), Dead("d")], 5000, &[], &[], "isolated"),
            step(ALIVE_4, 5000, &[], &[], "coordinator"),
        ],
    },
    Story {
        name: "a chain of partitions: two of the three that were left of five",
        own: "c",
        sanity: None,
        steps: &[
            step(&[Alive("a"), Alive("b"), Alive("d"), Alive("e")], 0, &[], &[], "follows e"),
            step(&[Dead("d"), Dead("e")], 1000, &["d", "e"], &[], "coordinator"),
            step(&[Dead("a")], 3000, &["a"], &[], "coordinator"),
            // Of these two the highest identifier.
            step(&[Dead("b")], 1000, &["b"], &[], "coordinator"),
            step(&[Alive("a"), Alive("b")], 0, &[], &["a", "b"], "coordinator"),
            step(&[Alive("d"), Alive("e")], 0, &[], &["d", "e"], "follows e"),
        ],
    },
    Story {
        name: "a chain of partitions: one of the three that were left of five",
        own: "a",
        sanity: None,
        steps: &[
            step(&[Alive("b"), Alive("c"), Alive("d"), Alive("e")], 0, &[], &[], "follows e"),
            step(&[Dead("d"), Dead("e")], 1000, &["d", "e"], &[], "follows c"),
            step(&[Dead("b"), Dead("c")], 60_000, &[], &[], "isolated"),
            // The old majority does not make a new one: two of three do.
            step(&[Alive("b")], 1000, &[], &[], "follows b"),
        ],
    },
    Story {
        name: "who discovery forgets counts no more",
        own: "c",
        sanity: None,
        steps: &[
            step(&[Alive("a"), Alive("b"), Alive("d"), Alive("e")], 0, &[], &[], "follows e"),
            step(&[Dead("a"), Dead("d"), Dead("e")], 1000, &[], &[], "isolated"),
            step(&[Forgotten("d"), Forgotten("e")], 1000, &[], &[], "coordinator"),
        ],
    },
];

#[test]
fn stories() {
    for story in STORIES {
        tell(story);
    }
}

#[test]
fn nobody_speaks_before_most_of_those_that_discovery_knows_were_seen() {
    // (seen alive, unseen, speaks)
    for (seen, unseen, speaks) in
        [(0, 0, true), (0, 1, false), (1, 1, true), (1, 2, false), (2, 2, true), (3, 5, false)]
    {
        let ids = ["a", "b", "c"].into_iter().take(seen);
        let members = ids.map(|id| (id.into(), Standing::Alive)).collect();
        let mut quorum = Quorum::new("z".into(), false);
        quorum.decide(Instant::now(), &Sight { members, unseen, ..Sight::default() });
        let expected = if speaks { PeerRole::Coordinator } else { PeerRole::Undecided };
        assert_eq!(*quorum.role(), expected, "{seen} seen, {unseen} not");
    }
}

#[test]
fn who_hears_few_of_those_that_it_probes_is_isolated_whatever_it_believes_of_the_others() {
    // (probed, heard, isolated)
    for (probed, heard, is_isolated) in
        [(4, 4, false), (4, 2, false), (4, 1, true), (4, 0, true), (1, 0, false), (2, 0, true)]
    {
        let ids = ["a", "b", "c", "d"].into_iter();
        let members = ids.map(|id| (id.into(), Standing::Alive)).collect();
        let mut sight = Sight { members, ..Sight::default() };
        let (mut quorum, mut now) = (Quorum::new("e".into(), false), Instant::now());
        quorum.decide(now, &sight);
        (sight.probed, sight.heard) = (probed, heard);
        quorum.decide(now, &sight);
        now += ISOLATED_AFTER;
        quorum.decide(now, &sight);
        let role = quorum.role();
        assert_eq!(*role == PeerRole::Isolated, is_isolated, "{heard} of {probed}: {role:?}");
    }
}

#[test]
fn deaths_of_one_event_are_reported_together_and_wait_no_longer_than_they_may() {
    let mut now = Instant::now();
    let mut quorum = Quorum::new("z".into(), false);
    let id = |n: u32| Arc::<str>::from(format!("m{n:02}"));
    let members = (0..10).map(|n| (id(n), Standing::Alive)).collect();
    let mut sight = Sight { members, ..Sight::default() };
    quorum.decide(now, &sight);
    // A new suspect every 200 ms keeps it restless.
    let began = now;
    sight.members.insert(id(0), Standing::Dead(now));
    let mut first = None;
    for n in 1..5 {
        sight.members.insert(id(n), Standing::Suspect);
        let decision = quorum.decide(now, &sight);
        if !decision.died.is_empty() {
            assert_eq!(decision.died, [id(0)]);
            first.get_or_insert(now.duration_since(began));
        }
        now += Duration::from_millis(200);
    }
    let decision = quorum.decide(now, &sight);
    let at = first.or((!decision.died.is_empty()).then(|| now.duration_since(began)));
    assert_eq!(at, Some(SETTLED_AT_LATEST));
}

/// Decides every 100 ms for some time, with a sanity check that answers so; gives all that was decided.
fn pass(
    quorum: &mut Quorum,
    now: &mut Instant,
    sight: &Sight,
    seconds: u64,
    is_sane: bool,
) -> Decision {
    let mut all = Decision::default();
    for _ in 0..seconds * 10 {
        let decision = quorum.decide(*now, sight);
        if decision.asks_sanity {
            quorum.sanity(*now, is_sane);
        }
        all.died.extend(decision.died);
        all.recovered.extend(decision.recovered);
        all.withdrawn.extend(decision.withdrawn);
        *now += Duration::from_millis(100);
    }
    all
}

#[test]
fn a_death_that_was_withheld_is_withdrawn_when_the_member_is_back() {
    let id = |name: &str| Arc::<str>::from(name);
    let alive = |names: &[&str]| -> BTreeMap<_, _> {
        names.iter().map(|name| (id(name), Standing::Alive)).collect()
    };
    let (mut now, none) = (Instant::now(), Vec::<Arc<str>>::new());
    // The coordinator, whose sanity check fails.
    let mut quorum = Quorum::new("e".into(), true);
    let mut sight = Sight { members: alive(&["a", "b", "c", "d"]), ..Sight::default() };
    pass(&mut quorum, &mut now, &sight, 1, false);
    sight.members.insert(id("a"), Standing::Dead(now));
    assert_eq!(pass(&mut quorum, &mut now, &sight, 20, false).died, none);
    assert!(quorum.withheld().eq([&id("a")]) && quorum.is_insane());
    sight.members.insert(id("a"), Standing::Alive);
    let decided = pass(&mut quorum, &mut now, &sight, 20, false);
    assert_eq!((decided.withdrawn, decided.recovered), (vec![id("a")], none.clone()));
    // Told in time, it is not withdrawn.
    sight.members.insert(id("a"), Standing::Dead(now));
    pass(&mut quorum, &mut now, &sight, 6, false);
    assert_eq!(pass(&mut quorum, &mut now, &sight, 6, true).died, [id("a")]);
    sight.members.insert(id("a"), Standing::Alive);
    let decided = pass(&mut quorum, &mut now, &sight, 6, true);
    assert_eq!((decided.withdrawn, decided.recovered), (none.clone(), vec![id("a")]));

    // A follower agrees on the death, and leaves it to the coordinator to withdraw it.
    let mut quorum = Quorum::new("d".into(), true);
    let mut sight = Sight { members: alive(&["a", "b", "c", "e"]), ..Sight::default() };
    pass(&mut quorum, &mut now, &sight, 1, false);
    sight.members.insert(id("a"), Standing::Dead(now));
    assert_eq!(pass(&mut quorum, &mut now, &sight, 6, false).died, [id("a")]);
    sight.members.insert(id("a"), Standing::Alive);
    assert_eq!(pass(&mut quorum, &mut now, &sight, 6, false).withdrawn, none);
    // The coordinator dies before it has told. Its successor has to be sane itself.
    sight.members.insert(id("b"), Standing::Dead(now));
    pass(&mut quorum, &mut now, &sight, 3, false);
    assert_eq!(quorum.withheld().count(), 0);
    sight.members.insert(id("e"), Standing::Dead(now));
    pass(&mut quorum, &mut now, &sight, 6, false);
    assert!(quorum.withheld().eq([&id("b"), &id("e")]));
    sight.members.insert(id("b"), Standing::Alive);
    assert_eq!(pass(&mut quorum, &mut now, &sight, 1, false).withdrawn, [id("b")]);
    assert_eq!(pass(&mut quorum, &mut now, &sight, 6, true).died, [id("e")]);
    assert_eq!(quorum.withheld().count(), 0);
}

#[test]
fn of_two_members_the_one_with_a_slow_sanity_check_tells_too() {
    let mut quorum = Quorum::new("a".into(), true);
    let mut now = Instant::now();
    let b = || Arc::<str>::from("b");
    let mut sight = Sight { members: BTreeMap::from([(b(), Standing::Alive)]), ..Sight::default() };
    quorum.decide(now, &sight);
    sight.members.insert(b(), Standing::Dead(now));
    let (began, mut answers_at) = (now, None);
    let mut died = Vec::new();
    while died.is_empty() && now < began + Duration::from_mins(1) {
        if answers_at.is_some_and(|at| now >= at) {
            quorum.sanity(now, true);
            answers_at = None;
        }
        let decision = quorum.decide(now, &sight);
        if decision.asks_sanity {
            answers_at = Some(now + Duration::from_millis(900));
        }
        died = decision.died;
        now += Duration::from_millis(50);
    }
    assert_eq!(died, [b()]);
    let took = now.duration_since(began);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_death_is_pending_until_it_is_agreed_on() {
    let mut quorum = Quorum::new("e".into(), true);
    let (mut now, a) = (Instant::now(), Arc::<str>::from("a"));
    let members = ["a", "b", "c", "d"].map(|name| (name.into(), Standing::Alive));
    let mut sight = Sight { members: BTreeMap::from(members), ..Sight::default() };
    pass(&mut quorum, &mut now, &sight, 1, false);
    sight.members.insert(a.clone(), Standing::Dead(now));
    pass(&mut quorum, &mut now, &sight, 20, false);
    assert!(quorum.is_pending(&a));
    assert_eq!(pass(&mut quorum, &mut now, &sight, 6, true).died, [Arc::from("a")]);
    assert!(!quorum.is_pending(&a) && quorum.is_pending("b"));
}
