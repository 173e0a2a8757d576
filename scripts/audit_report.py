"""What pip-audit's reports (JSON, a file a lock) come to: printed, and an exit code; see scripts/audit."""

from __future__ import annotations

import json
import sys
from pathlib import Path

CLEAN, VULNERABLE, NOT_AUDITED = 0, 1, 69
SHOWN = 5


def main(folder: Path) -> int:
    code = CLEAN
    for report in sorted(folder.iterdir()):
        lock = report.name.replace(":", "/")
        text = report.read_text()
        packages = json.loads(text)["dependencies"] if text else []
        skipped = [each["name"] for each in packages if "skip_reason" in each]
        for package in packages:
            for known in package.get("vulns", ()):
                fixed = ", ".join(known["fix_versions"]) or "no version"
                print(f"{lock}: {package['name']} {package['version']}: {known['id']}, fixed in {fixed}")
                code = VULNERABLE
        if not packages or skipped:
            names = ", ".join(skipped[:SHOWN]) + (" and others" if len(skipped) > SHOWN else "")
            count = f"{len(skipped)} of {len(packages)} packages" if packages else "its packages"
            print(f"{lock}: {count} NOT AUDITED: the service has no answer{f' ({names})' if names else ''}")
            code = code or NOT_AUDITED
        elif not any(package["vulns"] for package in packages):
            print(f"{lock}: nothing is known of its {len(packages)} packages")
    if code == NOT_AUDITED:
        print("not audited: the vulnerability service cannot be reached from here, or does not know them")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
