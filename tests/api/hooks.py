"""What schemathesis has to know beside the document, and one check of our own."""

import os
import re
import uuid

import schemathesis
from schemathesis.core.failures import MalformedJson
from schemathesis.core.parameters import ParameterLocation
from schemathesis.specs.openapi.checks import UseAfterFree

# Refusals of requests that fit the document: what they break needs more than the request to see, or more
# than a JSON schema to say. Whatever else is refused is a gap of the document.
BEYOND_A_SCHEMA = {
    # What exists, or is allowed, depends on the configuration and on policy files.
    "unknown-plan",
    "unknown-role",
    "unknown-env-type",
    "reserved-slug",
    "reserved-name",
    "role-not-allowed",
    "organization-reach-forbidden",
    "bearer-not-allowed",
    "invalid-connection-type",
    "invalid-limit",
    "invalid-limits",
    "invalid-ttl",
    "ttl-too-long",
    # Depends on the ledger.
    "no-key",
    "no-organization",
    "no-stream",
    "unknown-signing-key",
    "wrong-environment",
    "public-key-unchanged",
    # Cryptography: checksums of keys, signatures.
    "invalid-public-key",
    "wrong-proof",
    "invalid-operator-jwt",
    # Files in a language of their own.
    "invalid-policy",
    # Opaque; taken from an earlier answer.
    "invalid-cursor",
    # Fields that go together or exclude each other.
    "permissions-missing",
    "permissions-not-allowed",
    "proof-missing",
    "proof-without-key",
    "invalid-question",
    "invalid-token-scope",
    "invalid-selector",
    "empty-selector",
    "all-and-selector",
    "duplicate-item",
    # A size, a length of time or a date whose form is right and whose value is not.
    "invalid-duration",
    "invalid-size",
    "invalid-time",
    "invalid-times",
    "invalid-cidr",
    # Subjects that have to lie inside an environment and apart from each other.
    "invalid-filter",
    "invalid-subject",
}

# What all callers work with: the organization of the document's examples, and the tokens of the run.
EXAMPLE_ORGANIZATION = "acme"
# One that stands in where the example would be ended for everything that follows.
SPARE_ORGANIZATION = "spare"
ENDS = {
    "DELETE /api/v1/orgs/{org}",
    "DELETE /api/v1/orgs/{org}/envs/{envType}",
    "POST /api/v1/orgs/{org}/suspend",
}
SPARED_TOKENS = os.environ.get("SPARED_TOKENS", "").split()
# One line for each answer: method, path as the document has it, status.
ANSWERS = os.environ.get("ANSWERS")


def has_sound_headers(case):
    """Whether it is not the headers that are tried: once touched they would be judged anew, and taken for sound."""
    headers = case.meta and case.meta.components.get(ParameterLocation.HEADER)
    return headers is not None and headers.mode.is_positive


@schemathesis.hook
def before_call(_context, case, _kwargs):
    """Keeps what is tried from ending what is still to be tried."""
    key = case.headers.get("Idempotency-Key")
    # The same one is drawn again and again, and would have each further request refused.
    if isinstance(key, str) and re.fullmatch("[!-~]{1,200}", key) and has_sound_headers(case):
        case.headers["Idempotency-Key"] = f"{key}-{case.id}"
    operation = f"{case.method} {case.path}"
    given = case.path_parameters
    if operation in ENDS and given.get("org") == EXAMPLE_ORGANIZATION:
        given["org"] = SPARE_ORGANIZATION
    if operation == "DELETE /api/v1/tokens/{id}" and given.get("id") in SPARED_TOKENS:
        given["id"] = str(uuid.UUID(int=0))


@schemathesis.hook
def after_call(_context, case, response):
    """Writes down what was answered, for the test to count."""
    if ANSWERS:
        with open(ANSWERS, "a", encoding="utf-8") as file:
            file.write(f"{response.request.method} {case.path} {response.status_code}\n")


@schemathesis.hook
def filter_failure(context, failure, case, response):
    """Drops what is no failure here."""
    # A JWT is no JSON, though schemathesis 4.32.5 counts its media type among JSON's.
    is_jwt = response.headers.get("content-type") == ["application/jwt"]
    if is_jwt and isinstance(failure, MalformedJson):
        return False
    # A deletion answers 202: what is deleted is shown as `deleting` until every server has followed.
    return not (isinstance(failure, UseAfterFree) and "DELETE /api/v1/orgs/" in failure.message)


@schemathesis.check
def refusals_are_beyond_a_schema(_ctx, response, case):
    """A request that fits the document is refused only for what the document cannot say."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code != 422:
        return
    problem = response.json()
    code = problem["code"]
    # To a JSON schema 1.0 is an integer.
    if code == "invalid-body" and problem["detail"].startswith("invalid type: floating point"):
        return
    assert code in BEYOND_A_SCHEMA, f"the document does not say what '{code}' refuses"


@schemathesis.check
def refusals_are_in_the_document(_ctx, response, case):
    """Each refusal has a code that the document names at the operation."""
    definition = case.operation.definition.raw
    # Of a method or a path that nothing answers, and of what is refused wherever it is, no operation speaks.
    if response.status_code < 400 or response.request.method != case.operation.method.upper():
        return
    if "application/problem+json" not in response.headers.get("content-type", [""])[0]:
        return
    status, code = str(response.status_code), response.json()["code"]
    if code in ("no-route", "method-not-allowed", "internal"):
        return
    content = definition["responses"].get(status, {}).get("content", {}).get("application/problem+json", {})
    assert code in content.get("examples", {}), f"the document does not name {status} '{code}' here"
