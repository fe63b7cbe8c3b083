use super::*;

/// Members `n1`, `n2` ... of rows in signs: `.`, `?`, `x`, `+` (0.3 ms), `~` (12 ms, 10 % lost).
fn members(rows: &[&str]) -> Vec<Member> {
    let path = |sign| match sign {
        '.' => Path::Own,
        '?' => Path::Unknown,
        'x' => Path::Unreached,
        '+' => Path::Reached { round_trip: Duration::from_micros(312), loss: 0.0 },
        _ => Path::Reached { round_trip: Duration::from_millis(12), loss: 0.1 },
    };
    let member = |(number, row): (usize, &&str)| Member {
        node: format!("n{}", number + 1),
        state: "alive".to_owned(),
        note: String::new(),
        paths: row.chars().map(path).collect(),
    };
    rows.iter().enumerate().map(member).collect()
}

fn three() -> Vec<Member> {
    let mut members = members(&[".+x", "~.+", "??."]);
    members[1].note = "coordinator".to_owned();
    members[2].state = "dead".to_owned();
    members
}

#[test]
fn a_wide_terminal_shows_times() {
    let expected = [
        "      1          2      3",
        "1 n1  .          0.3ms  LOST",
        "2 n2  12ms -10%  .      0.3ms  coordinator",
        "3 n3  ?          ?      .      dead",
        "",
        "row: who says so",
    ]
    .join("\n");
    for width in [None, Some(120)] {
        let text = render(&three(), width, false);
        assert!(text.starts_with(&expected), "{width:?}\n{text}");
    }
}

#[test]
fn a_narrow_terminal_shows_signs_and_a_narrower_one_lists_what_is_broken() {
    let text = render(&three(), Some(24), false);
    let expected = "     1 2 3\n1 n1 . + x\n2 n2 ~ . +  coordinator\n3 n3 ? ? .  dead\n\n+ reached";
    assert!(text.starts_with(expected), "{text}");
    let text = render(&three(), Some(12), false);
    assert!(text.starts_with("     1 2 3\n1 n1 . + x\n2 n2 ~ . +\n3 n3 ? ? .\n\n"), "{text}");
    assert!(text.ends_with("n2: coordinator\nn3: dead\n"), "{text}");
    let text = render(&three(), Some(8), false);
    let expected =
        "n2: coordinator\nn3: dead\nn1 does not reach n3\nn2 loses 10% of its probes to n1\n";
    assert!(text.starts_with("3 members: ") && text.ends_with(expected), "{text}");
    let well = render(&members(&[".+", "+."]), Some(3), false);
    assert!(well.ends_with("all are alive, and no path loses probes\n"), "{well}");
}

#[test]
fn colours_are_for_terminals_and_take_no_room() {
    let (plain_text, coloured) =
        (render(&three(), Some(80), false), render(&three(), Some(80), true));
    assert!(!plain_text.contains('\x1b'));
    assert!(
        coloured.contains("\x1b[31mLOST\x1b[0m") && coloured.contains("\x1b[33m12ms -10%\x1b[0m")
    );
    assert_eq!(plain(&coloured), plain_text);
}

#[test]
fn times_are_short_and_names_cannot_do_harm() {
    for (microseconds, text) in [
        (0, "0.0ms"),
        (1_240, "1.2ms"),
        (9_949, "9.9ms"),
        (9_960, "10ms"),
        (200_000, "200ms"),
        (1_250_000, "1.2s"),
    ] {
        assert_eq!(short(Duration::from_micros(microseconds)), text);
    }
    let mut evil = members(&["."]);
    evil[0].node = "\x1b[2Jn".to_owned();
    assert!(!render(&evil, None, true).contains("\x1b[2J"));
    assert!(render(&[], Some(80), false).starts_with("\n\n"), "{:?}", render(&[], Some(80), false));
}
