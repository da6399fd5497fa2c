#!/usr/bin/python3
# SPDX-License-Identifier: BSD-2-Clause
"""Run tests and count them.

  run_tests.py [--build DIR] [--fuzz-runs N] [--junit FILE] KIND [PROGRAM...]

KIND is unit (cmocka programs), fuzz (libFuzzer programs), sim (the simulator), pytest (tests/boot and
tests/interop), check (the scripts check_*.py beside this one) or all. The last line is "N passed, N
failed", the status 1 if anything failed. What passes prints one line at most (the simulator another
one, with its figures); what fails prints all it said.
"""
import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

HERE = pathlib.Path(__file__).parent
TIMEOUT = 600  # of one program; hours with STRONGROOM_LONG
LONG = bool(os.environ.get("STRONGROOM_LONG"))


class Case:
    """One test: FAILURE is None, or what there is to say about it."""

    def __init__(self, suite, name, failure=None, seconds=0.0, skipped=False):
        self.suite, self.name, self.failure = suite, name, failure
        self.seconds, self.skipped = seconds, skipped


def run(argv, **env):
    """(status, output, seconds); a timeout is a status like any other."""
    start = time.monotonic()
    try:
        done = subprocess.run([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL, env={**os.environ, **env},
                              timeout=TIMEOUT * (30 if LONG else 1))
        status, output = done.returncode, done.stdout
    except subprocess.TimeoutExpired as late:
        status, output = "timeout", late.stdout or b""
    return status, output.decode(errors="replace"), time.monotonic() - start


def parse_junit(path, suite):
    for element in ET.parse(path).iter("testcase"):
        bad = [child for child in element if child.tag in ("failure", "error")]
        text = "\n".join((b.text or b.get("message") or "failed").strip() for b in bad)
        yield Case(element.get("classname") or suite, element.get("name"), text if bad else None,
                   float(element.get("time") or 0), element.find("skipped") is not None)


def run_unit(program, args):
    """A cmocka program counts each of its tests, and once more if it dies."""
    results = args.build / "test" / program.parent.parent.name / program.name
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    status, output, seconds = run([program.resolve()], CMOCKA_MESSAGE_OUTPUT="XML",
                                  CMOCKA_XML_FILE=str(results.resolve() / "%g.xml"),
                                  UBSAN_OPTIONS="print_stacktrace=1")
    cases = []
    for path in sorted(results.glob("*.xml")):
        try:
            cases += parse_junit(path, program.name)
        except ET.ParseError:
            pass
    if not cases or (status != 0 and not any(c.failure for c in cases)):
        cases.append(Case(program.name, "(program)", f"status {status}\n{output}", seconds))
    elif any(c.failure for c in cases) and output.strip():
        print(output.rstrip(), flush=True)
    return cases


SLOW_FUZZ = {"fuzz_qcow2_write": 5, "fuzz_qcow2_check": 5, "fuzz_bridge": 4}  # an input is the life of an image, a session: fewer


def run_fuzz(program, args):
    """Always the same inputs: the corpus of the tree, a fixed seed, an empty folder of finds."""
    finds = args.build / "test" / program.name
    shutil.rmtree(finds, ignore_errors=True)
    finds.mkdir(parents=True)
    corpus = pathlib.Path("tests/fuzz/corpus") / program.name.removeprefix("fuzz_")
    status, output, seconds = run(
        [program.resolve(), f"-runs={args.fuzz_runs // SLOW_FUZZ.get(program.name, 1)}", "-seed=1", "-timeout=20", "-rss_limit_mb=2048",
         f"-artifact_prefix={finds}-", "-print_final_stats=0", "-verbosity=1", finds]
        + ([corpus] if corpus.is_dir() else []))
    shutil.rmtree(finds, ignore_errors=True)
    return [Case("fuzz", program.name, f"status {status}\n{output[-6000:]}" if status else None, seconds)]


SIM_LINE = re.compile(r"  (ok|FAIL|found|MISSED) +(\S+) .*?([\d.]+) s\b")

SIM_SUM = re.compile(r"[\w-]+: \d+ (runs with|of) ")


def run_sim(program, args):
    """The simulator prints a line for each of its jobs, what failed before it, and figures at the end."""
    suite = program.parent.name
    words = {"mutants": ["mutants"], "simasan": ["short"]}.get(suite, ["long", "3600"] if LONG else [])
    status, output, seconds = run([program.resolve(), *words])
    cases, said = [], []
    for line in output.splitlines():
        match = SIM_LINE.match(line)
        if match:
            bad = match[1] in ("FAIL", "MISSED")
            cases.append(Case(suite, match[2], "\n".join(said)[-6000:] if bad else None,
                              float(match[3])))
        said = [] if match else said + [line]
    if status != 0 and not any(case.failure is not None for case in cases):
        cases.append(Case(suite, "(program)", f"status {status}\n{output[-6000:]}", seconds))
    print("\n".join(f"  {line}" for line in said if SIM_SUM.match(line)), flush=True)
    return cases


def run_check(script, args):
    status, output, seconds = run([script, args.build])
    return [Case("check", script.stem.removeprefix("check_"), output if status else None, seconds)]


def run_pytest(args):
    folders = [f for f in ("tests/boot", "tests/interop") if list(pathlib.Path(f).glob("test_*.py"))]
    if not folders:
        return []
    report = args.build.resolve() / "test" / "pytest.xml"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    status = subprocess.run(["/usr/bin/python3", "-m", "pytest", "-q", "-p", "no:cacheprovider",
                             f"--junit-xml={report}", *folders],
                            env={**os.environ, "BUILD": str(args.build)}).returncode
    cases = list(parse_junit(report, "pytest")) if report.exists() else []
    if status and not any(c.failure for c in cases):
        cases.append(Case("pytest", "(run)", f"status {status}"))
    return cases


def write_junit(path, cases):
    suite = ET.Element("testsuite", name="strongroom", tests=str(len(cases)),
                       failures=str(sum(c.failure is not None for c in cases)),
                       skipped=str(sum(c.skipped for c in cases)), errors="0")
    for case in cases:
        element = ET.SubElement(suite, "testcase", classname=case.suite, name=case.name,
                                time=f"{case.seconds:.3f}")
        if case.skipped:
            ET.SubElement(element, "skipped")
        if case.failure is not None:
            text = "".join(c for c in case.failure if c in "\n\t" or c.isprintable())
            ET.SubElement(element, "failure", message=text[:100]).text = text
    path.parent.mkdir(parents=True, exist_ok=True)
    ET.ElementTree(suite).write(path, encoding="unicode", xml_declaration=True)


def report(name, cases):
    failed = [c for c in cases if c.failure is not None]
    for case in failed:
        print(f"FAILED {case.suite}: {case.name}\n    " + case.failure.strip().replace("\n", "\n    "))
    print(f"  {'FAIL' if failed else 'ok':6} {name}: {len(cases)}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--fuzz-runs", type=int, default=20000)
    parser.add_argument("--junit", type=pathlib.Path)
    parser.add_argument("kind", choices=["unit", "fuzz", "sim", "pytest", "check", "all"])
    parser.add_argument("programs", nargs="*", type=pathlib.Path)
    args = parser.parse_args()

    jobs = []
    for program in args.programs:
        function = run_fuzz if program.name.startswith("fuzz_") else run_unit
        if program.name == "sim":
            function = run_sim
        name = program.parent.name if function is run_sim else program.name
        jobs.append((name, function, program))
    if args.kind in ("check", "all"):
        jobs += [(s.stem, run_check, s) for s in sorted(HERE.glob("check_*.py"))]

    cases = []
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [(name, pool.submit(function, what, args)) for name, function, what in jobs]
        for name, job in running:
            cases += job.result()
            report(name, job.result())
    if args.kind in ("pytest", "all"):
        found = run_pytest(args)
        report("pytest", found)
        cases += found

    if args.junit:
        write_junit(args.junit, cases)
    failed = sum(c.failure is not None for c in cases)
    passed = sum(c.failure is None and not c.skipped for c in cases)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
