"""Which names say that what follows them is a secret. One rule: the end of a name decides, not its middle.

`--db-password` and `MYSQL_PASSWORD` name a secret; `--password-file`, `--token-ttl` and `SECRET_NAME` name
something about one. Names are compared in lower case and without the joints `-`, `_` and `.`, so that
`apiKey`, `api-key` and `API_KEY` are one name.
"""

from __future__ import annotations

from typing import Final

NAME_LIMIT: Final = 128
"""Characters of a name that are looked at, from its end. The longest real ones (Java properties) have 60."""


def words_of(text: str) -> frozenset[str]:
    """The words of a table's line."""
    return frozenset(text.split())


# Unmistakable wherever a name ends with them, glued or not: `DBPASSWORD`, `clientsecret`, `x-api-key`.
_ENDINGS: Final = (
    "password",
    "passwd",
    "passphrase",
    "passcode",
    "passwort",
    "secret",
    "token",
    "accesskey",
    "accesskeyid",
    "accountkey",
    "apikey",
    "apppass",
    "authkey",
    "encryptionkey",
    "keypass",
    "licensekey",
    "masterkey",
    "presharedkey",
    "secretkey",
    "secretkeybase",
    "sessionkey",
    "sharedkey",
    "storagekey",
    "storepass",
    "passwordhash",
    "passwordvalue",
    "secretstring",
    "secretvalue",
    "tokenvalue",
    "masterauth",
    "privatekey",
    "signingkey",
    "credentials",
    "authorization",
)

# Too short to trust inside a word (`bypass`, `compass`): whole names, or behind a joint or a change of case.
_SHORT: Final = ("pass", "pwd", "pw", "psk", "jwt")

# Whole names that the endings above do not catch.
_WHOLE: Final = words_of(
    "dbpass userpass rootpass adminpass authpass smtppass mailpass ftppass httppass pgpass mypass requirepass"
    " masterpass becomepass sshpass sudopass passin passout cookie setcookie xauth bearer oauth2bearer"
)

# Options only: a variable or key of that name is too often something else.
_PINS: Final = words_of("pin userpin sopin newpin")

# Names of files, of switches and of things to type in, although they end like a secret.
_INNOCENT: Final = words_of(
    "nopassword nopasswd nopass askpass askpassword askvaultpass askbecomepass authuserpass nexttoken"
    " pagetoken startingtoken continuationtoken synctoken oldpwd publickeytoken sshaskpass gitaskpass"
    " sudoaskpass"
)

# A first word that makes the rest a switch or an order, never a value: `--ask-become-pass`, `--no-token`.
_SWITCHES: Final = tuple(
    word + joint
    for word in words_of(
        "no ask skip disable enable require prompt allow without use show need needs has is hide print get"
        " list delete export create edit import"
    )
    for joint in "-_"
)

# Names whose value is a file at least as often as the secret itself: a path is left standing.
_FILES: Final = ("privatekey", "signingkey", "credentials", "masterkey", "encryptionkey")
_FILE_ENDINGS: Final = (".pem", ".key", ".json", ".crt", ".pub", ".jks", ".p12", ".pfx")

# Options whose value is USER:SECRET, or a kind of authentication when it has no colon.
_PAIRS: Final = frozenset({"auth", "basicauth", "httpauth", "proxyauth", "userpass", "basicauthcredentials"})

_HEADERS: Final = ("authorization", "cookie")

JOINTS: Final = str.maketrans("", "", "-_.")


def may_hold_name(text: str) -> bool:
    """Whether a secret name may occur: each contains one of these.

    Written out: this runs for every process, and a loop over a tuple costs more.
    """
    low = text.lower()
    return (
        "pass" in low
        or "key" in low
        or "token" in low
        or "secret" in low
        or "auth" in low
        or "pw" in low
        or "cred" in low
        or "psk" in low
        or "cookie" in low
        or "jwt" in low
        or "-pin" in low
        or "bearer" in low
    )


def joined(name: str) -> str:
    """The name in lower case, without joints and without a number at its end (`PASSWORD_2`)."""
    return name[-NAME_LIMIT:].lower().translate(JOINTS).rstrip("0123456789")


def is_secret_name(name: str) -> bool:
    """Whether a flag, variable, property, header or key of this name has a secret for its value."""
    word = joined(name)
    if word in _WHOLE:
        return True
    if word in _PINS:
        return "-pin" in name.lower()
    bare = name[-NAME_LIMIT:].strip("-_.").rstrip("0123456789").rstrip("-_.")
    if not word.endswith(_ENDINGS) and not _ends_in_short(bare):
        return False
    # The shell's PWD is a directory; the Pwd of a connection string is not.
    return word not in _INNOCENT and not bare.lower().startswith(_SWITCHES) and bare != "PWD"


def _ends_in_short(bare: str) -> bool:
    lowered = bare.lower()
    if not lowered.isascii() or not lowered.endswith(_SHORT):
        return False
    for short in _SHORT:
        if lowered.endswith(short):
            before, first = bare[: -len(short)][-1:], bare[-len(short)]
            if not before or not before.isalpha() or (first.isupper() and before.islower()):
                return True
    return False


def is_file_for(name: str, value: str) -> bool:
    """Whether the value is a path, under a name that takes files (`--private-key ~/.ssh/id`)."""
    return joined(name).endswith(_FILES) and (
        value.startswith(("/", "./", "../", "~")) or value.lower().endswith(_FILE_ENDINGS)
    )


def is_pair_name(name: str) -> bool:
    """Whether the value is USER:SECRET if it has a colon, and no secret if it has none (`--auth ldap`)."""
    return joined(name) in _PAIRS


def is_header_name(name: str) -> bool:
    """Whether the value runs to the end of the line, spaces included (`Authorization: Bearer x`)."""
    return joined(name).endswith(_HEADERS)


def looks_like_header(name: str) -> bool:
    """Whether `name:` alone in an argument is a header, its value in the next, and not a prompt."""
    return is_secret_name(name) and (is_header_name(name) or "-" in name.strip("-"))
