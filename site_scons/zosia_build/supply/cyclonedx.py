"""Bill of materials in CycloneDX 1.6 (cyclonedx.org), whose bytes depend on its content only."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime

from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model import component as cdx
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import is_expression
from packageurl import PackageURL

from zosia.base.version import VERSION
from zosia_build.supply.component import Bill, Component, Role


def text(bill: Bill, time: datetime) -> str:
    """Return a bill as JSON; `time` is that of its making."""
    components = {part.key: _component(part) for part in bill.components}
    subject = _component(bill.subject)
    zosia = cdx.Component(name="scons sbom", version=VERSION, type=cdx.ComponentType.APPLICATION, bom_ref="scons-sbom")
    metadata = BomMetaData(component=subject, timestamp=time)
    metadata.tools.components.add(zosia)
    bom = Bom(components=components.values(), metadata=metadata)
    names = {part.name: components[part.key] for part in bill.components if not part.within}
    for part in bill.components:
        around = names.get(part.within, subject)
        bom.register_dependency(around, [components[part.key]])
    # Of a document of the same content; a random one would be another in each build.
    bom.serial_number = uuid.UUID(int=0)
    bom.serial_number = uuid.uuid5(uuid.NAMESPACE_URL, JsonV1Dot6(bom).output_as_string())
    return JsonV1Dot6(bom).output_as_string(indent=2) + "\n"


def _component(part: Component) -> cdx.Component:
    return cdx.Component(
        name=part.name,
        version=part.version or None,
        type=cdx.ComponentType(part.kind),
        bom_ref=part.key,
        licenses=_licences(part.licence),
        purl=PackageURL.from_string(part.purl) if part.purl else None,
        cpe=part.cpe or None,
        description=part.note or None,
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=part.sha256)] if part.sha256 else [],
        scope=cdx.ComponentScope.EXCLUDED if part.role is Role.TOOL else None,
        external_references=list(_references(part)),
        properties=[Property(name="zosia:file", value=part.file)] if part.file else [],
    )


def _licences(licence: str) -> list[License]:
    if not licence:
        return []
    return [LicenseExpression(licence) if is_expression(licence) else DisjunctiveLicense(name=licence)]


def _references(part: Component) -> Iterator[ExternalReference]:
    kind = ExternalReferenceType.DISTRIBUTION
    if part.url:
        yield ExternalReference(type=kind, url=XsUri(part.url))
    if part.digests:  # of files any one of which may be installed: its address in the index is its purl
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in part.digests]
        yield ExternalReference(type=kind, url=XsUri(part.purl), hashes=hashes)
