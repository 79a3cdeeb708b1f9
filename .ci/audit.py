"""Known vulnerabilities of the locked packages, as pip-audit finds them: make audit

One that a newer version mends fails the build, unless ACCEPTED gives the reason why not. Where the
registry cannot be reached or serves no data, a line says so and the build goes on: pip-audit itself
then finds "no known vulnerabilities" in packages that it never looked at.
"""

import json
import subprocess
import sys
from pathlib import Path

ACCEPTED: dict[str, str] = {}  # the id of a vulnerability -> why it does not concern knobs
COMMAND = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner=off"]
COMMAND += ["--desc=off", "--format=json", "-r"]
HERE = sorted(path.name for path in Path(__file__).parents[1].glob("requirements*.lock"))
LOCKS = (*HERE, ".ci/requirements.lock")


def ask(lock: str) -> dict:
    """Return pip-audit's report on a lock file; ValueError with its last line if it has none."""
    try:
        done = subprocess.run([*COMMAND, lock], capture_output=True, text=True, timeout=300)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        raise ValueError("no answer in 5 minutes") from None
    except json.JSONDecodeError:
        raise ValueError((done.stderr.strip() or "no answer").splitlines()[-1]) from None


def judge(lock: str, report: dict, accepted: dict[str, str]) -> tuple[list[str], bool]:
    """Return lines on a report, and whether a vulnerability fails the build."""
    packages = report["dependencies"]
    looked_at = [package for package in packages if "vulns" in package]
    lines, fails = [], False
    for package in looked_at:
        for flaw in package["vulns"]:
            names = {flaw["id"], *flaw.get("aliases", [])}
            reason = next((accepted[name] for name in sorted(names) if name in accepted), None)
            what = f"{package['name']} {package['version']}: {flaw['id']}"
            if reason:
                lines.append(f"{what}, accepted: {reason}")
            elif flaw["fix_versions"]:
                fails = True
                fixed = ", ".join(flaw["fix_versions"])
                lines.append(f"{what}, fixed in {fixed}: raise it in requirements.txt (or in the")
                lines[-1] += " lock file), then make lock; or give the reason why not in ACCEPTED"
            else:
                lines.append(f"{what}, not fixed by any version yet")
    if len(looked_at) == len(packages):
        lines.append(f"{len(packages)} packages looked up")
    else:
        lines.append(
            f"NOT AUDITED: {len(packages) - len(looked_at)} of {len(packages)} packages,"
            " of which the registry has no data here"
        )
    return [f"audit: {lock}: {line}" for line in lines], fails


def main() -> int:
    """Print what is known of every lock file; return 1 where a vulnerability fails the build."""
    failed = False
    for lock in LOCKS:
        try:
            lines, fails = judge(lock, ask(lock), ACCEPTED)
        except ValueError as fault:
            lines, fails = [f"audit: {lock}: NOT AUDITED, pip-audit says: {fault}"], False
        print(*lines, sep="\n")
        failed |= fails
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
