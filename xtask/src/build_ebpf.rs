//! `cargo xtask build-ebpf`: builds the kernel programs alone, as `agent/build.rs` embeds them, and lists them.

use std::fs;

use anyhow::{Context as _, Result};

use crate::bpf;
use crate::setup::{self, Needs};
use crate::workspace::{announce, check, command, output, target_dir};

pub(crate) fn run() -> Result<()> {
    setup::ensure(Needs::Build)?;
    let toolchain = bpf::Toolchain::find()?.context("no compiler for the kernel programs")?;
    let mut build = toolchain.cargo("build")?;
    announce(&build);
    check(&mut build)?;
    let object = target_dir()?.join("bpf").join(bpf::TARGET).join("release/tocsin-ebpf");
    let size = fs::metadata(&object).with_context(|| object.display().to_string())?.len();
    println!("{} ({size} bytes, {})", object.display(), toolchain.name);
    // Rust needs binutils to link, so readelf is installed.
    let dump =
        output(command("readelf")?.args(["--wide", "--sections", "--symbols"]).arg(&object))?;
    for (name, size) in programs(&dump) {
        println!("  {name} ({size} bytes)");
    }
    Ok(())
}

/// The kernel programs among the symbols: global functions outside of `.text`. Those in `.text` are called by programs.
fn programs(dump: &str) -> Vec<(&str, &str)> {
    let text = dump.lines().find_map(|line| {
        let (number, rest) = line.trim().strip_prefix('[')?.split_once(']')?;
        (rest.split_whitespace().next() == Some(".text")).then(|| number.trim())
    });
    let program = |line| match fields(line)[..] {
        [_number, _value, size, "FUNC", "GLOBAL", _visibility, section, name]
            if Some(section) != text =>
        {
            Some((name, size))
        }
        _ => None,
    };
    dump.lines().filter_map(program).collect()
}

fn fields(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[cfg(test)]
mod tests {
    use super::programs;

    #[test]
    fn programs_are_global_functions_outside_of_text() {
        let dump = "\
  [ 0]                   NULL            0000000000000000 000000 000000 00      0   0  0
  [ 2] .text             PROGBITS        0000000000000000 000040 000160 00  AX  0   0  8
  [ 3] tracepoint        PROGBITS        0000000000000000 0001a0 004a10 00  AX  0   0  8
   Num:    Value          Size Type    Bind   Vis      Ndx Name
     1: 0000000000000000    88 FUNC    GLOBAL DEFAULT    2 memcpy
     2: 0000000000000000  2392 FUNC    GLOBAL DEFAULT    3 block_rq_error
     3: 0000000000000000    28 OBJECT  GLOBAL DEFAULT   11 RECORDS
     4: 0000000000000000    28 FUNC    LOCAL  DEFAULT    3 inner
";
        assert_eq!(programs(dump), [("block_rq_error", "2392")]);
        assert_eq!(programs(""), []);
    }
}
