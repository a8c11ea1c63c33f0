"""Which registries are a cloud's own, by their names alone."""

from __future__ import annotations

import re

from msgspec import Struct

from pybuild.registry.options import split_host

ACR_ENDINGS = (".azurecr.io", ".azurecr.cn", ".azurecr.us")
_ECR_PUBLIC = ("public.ecr.aws", "ecr-public.aws.com")
_ECR = re.compile(
    r"\d{12}\.dkr[.-]ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\."
    r"(?P<suffix>amazonaws\.com(?:\.cn)?|amazonaws\.eu|on\.aws|on\.amazonwebservices\.com\.cn"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)"
)
# The dual-stack names of registries; the API has the classic ones.
_SUFFIXES = {"on.aws": "amazonaws.com", "on.amazonwebservices.com.cn": "amazonaws.com.cn"}
# Public mirrors that nobody logs in to.
_GOOGLE_OPEN = frozenset({"mirror.gcr.io", "k8s.gcr.io"})


class EcrPlace(Struct, frozen=True):
    """Where the API of a registry is; no region for the public registry."""

    region: str = ""
    suffix: str = "amazonaws.com"
    fips: bool = False


def cloud_of(host: str) -> str:
    """ "google", "ecr" or "acr" for a registry of theirs, else ""."""
    name = split_host(host)[0]
    if name == "gcr.io" or name.endswith((".gcr.io", ".pkg.dev")):
        return "" if name in _GOOGLE_OPEN else "google"
    if name.endswith(ACR_ENDINGS):
        return "acr"
    return "ecr" if ecr_place(name) is not None else ""


def ecr_place(host: str) -> EcrPlace | None:
    """None for a host that is no registry of Amazon's."""
    name = split_host(host)[0]
    if name in _ECR_PUBLIC:
        return EcrPlace()
    found = _ECR.fullmatch(name)
    if found is None:
        return None
    suffix = _SUFFIXES.get(found["suffix"], found["suffix"])
    return EcrPlace(found["region"], suffix, bool(found["fips"]))
