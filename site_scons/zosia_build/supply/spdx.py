"""Bill of materials in SPDX 2.3 (spdx.github.io/spdx-spec/v2.3), as JSON.

Written here, because spdx-tools, the library for it, needs an RDF database and six more packages to write a dictionary
as JSON. The tests read it with that library, which checks it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from cyclonedx.spdx import is_expression

from zosia.base.version import VERSION
from zosia_build.supply.component import Bill, Component, Role

UNKNOWN = "NOASSERTION"
KINDS = {"application": "APPLICATION", "library": "LIBRARY", "operating-system": "OPERATING-SYSTEM", "file": "FILE"}
RELATIONS = {Role.PART: "CONTAINS", Role.NEEDED: "DEPENDS_ON"}


def text(bill: Bill, time: datetime) -> str:
    """Return a bill as JSON; `time` is that of its making."""
    packages = [_package(part) for part in (bill.subject, *bill.components)]
    names = {part.name: part for part in bill.components if not part.within}
    relations = [_relation("SPDXRef-DOCUMENT", "DESCRIBES", _reference(bill.subject))]
    for part in bill.components:
        around = names.get(part.within, bill.subject)
        if part.role is Role.TOOL:
            relations.append(_relation(_reference(part), "BUILD_TOOL_OF", _reference(around)))
        else:
            relations.append(_relation(_reference(around), RELATIONS[part.role], _reference(part)))
    digest = hashlib.sha256(json.dumps([packages, relations]).encode()).hexdigest()
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{bill.subject.name}-{VERSION}",
        # An identifier, and no address: the same content has the same one.
        "documentNamespace": f"https://spdx.org/spdxdocs/{bill.subject.key}-{digest[:32]}",
        "creationInfo": {"created": time.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": [f"Tool: zosia-{VERSION}"]},
        "packages": packages,
        "relationships": relations,
        "hasExtractedLicensingInfos": list(_others(bill)),
    }
    return json.dumps({key: value for key, value in document.items() if value}, indent=2) + "\n"


def _reference(part: Component) -> str:
    return f"SPDXRef-{part.key}"


def _relation(one: str, kind: str, other: str) -> dict[str, str]:
    return {"spdxElementId": one, "relationshipType": kind, "relatedSpdxElement": other}


def _package(part: Component) -> dict[str, Any]:
    references = [("PACKAGE-MANAGER", "purl", part.purl), ("SECURITY", "cpe23Type", part.cpe)]
    comments = [part.note, *(f"one of its files: SHA-256 {digest}" for digest in part.digests)]
    fields = {
        "SPDXID": _reference(part),
        "name": part.name,
        "versionInfo": part.version,
        "packageFileName": part.file,
        "downloadLocation": part.url or UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": UNKNOWN,
        "licenseDeclared": _licence(part.licence),
        "copyrightText": UNKNOWN,
        "primaryPackagePurpose": KINDS.get(part.kind, "OTHER"),
        "checksums": [{"algorithm": "SHA256", "checksumValue": part.sha256}] if part.sha256 else [],
        "externalRefs": [
            {"referenceCategory": category, "referenceType": kind, "referenceLocator": locator}
            for category, kind, locator in references
            if locator
        ],
        "comment": "\n".join(filter(None, comments)),
    }
    return {name: value for name, value in fields.items() if value not in ("", [])}


def _licence(licence: str) -> str:
    if not licence:
        return UNKNOWN
    return licence if is_expression(licence) else f"LicenseRef-{re.sub(r'[^A-Za-z0-9.-]+', '-', licence)}"


def _others(bill: Bill) -> Iterator[dict[str, str]]:
    """Yield the licences that SPDX's list doesn't have."""
    for licence in sorted({part.licence for part in bill.components}):
        if licence and not is_expression(licence):
            yield {
                "licenseId": _licence(licence),
                "name": licence,
                "extractedText": f"{licence}. docs/licences.md of zosia says what it asks for.",
            }
