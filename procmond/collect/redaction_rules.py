"""How single programs take secrets. One rule: data only, no decision.

What a letter means is in the program's manual page. What every program shares, a flag or variable whose
name says "secret", is in redaction_names and needs no entry here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from procmond.collect.redaction_names import words_of


class Program(NamedTuple):
    """Where one program's secrets stand. Letters are getopt's: their value is glued or the next argument."""

    letters: str = ""
    """Letters whose value is a secret (`sshpass -p X`, `sshpass -pX`)."""
    pair: str = ""
    """Letters whose value is USER:SECRET."""
    takes: str = ""
    """Letters with a value that is neither: their value is not read as letters, nor as a position."""
    separator: str = ":"
    """Between user and secret in a pair."""
    prefixes: tuple[str, ...] = ()
    """What a secret is glued to and never separate from (`mysql -pX`)."""
    words: frozenset[str] = frozenset()
    """Whole arguments whose secret follows, as the next argument or behind `=` or `:`."""
    pair_words: frozenset[str] = frozenset()
    takes_words: frozenset[str] = frozenset()
    """Whole arguments whose value is neither secret nor position, whatever their name says."""
    after: Mapping[str, tuple[int, ...]] = {}
    """Which arguments without a dash, counted from this one, are secrets; "" is the program's name."""
    assigned: frozenset[str] = frozenset()
    """Options whose value is NAME=SECRET, whatever the name."""
    assigns: frozenset[str] = frozenset()
    """Words after which each NAME=VALUE is a secret, whatever the name."""
    last_with: str = ""
    """A letter that makes the last argument a secret (`htpasswd -b`)."""
    login: bool = False
    """The first argument with a slash inside is USER/SECRET[@DATABASE]."""
    prose: frozenset[str] = frozenset()
    """Options whose value is a sentence: `password: x` in it is no assignment."""


_MYSQL: Final = Program(prefixes=("-p",), takes_words=words_of("--password"), after={"password": (1,)})
_MYSQL_CLIENT: Final = _MYSQL._replace(after={})
_LDAP: Final = Program(letters="w", takes="DHhpbslSfYUXRQOoEeMzadyTVcPru")
_LDAP_PASSWORD: Final = _LDAP._replace(letters="was", takes="DHhpbSfYUXRQOoEeMztdTVn")
_MONGO: Final = Program(letters="p", takes="uhdcqof")
_MOSQUITTO: Final = Program(letters="P", takes="uhpitmqAkMfFCWTLlV")
_POSTGRES: Final = Program(takes_words=words_of("--password"))
_SAMBA: Final = Program(
    pair="U", separator="%", takes="LINSWmpbksOinMtAcDTPEdl", pair_words=words_of("--user")
)
_ZIP: Final = Program(letters="P", takes="bntxidOsZ")
_SEVEN_ZIP: Final = Program(prefixes=("-p",))
_RAR: Final = Program(prefixes=("-p", "-hp"))
_FREERDP: Final = Program(words=words_of("/p /pth /gp /pass -p"))
_SNMP: Final = Program(letters="cAX", takes="vlanutrxeEZmMOILCP")
_SQLCMD: Final = Program(letters="PZ", takes="SUdQqioEhwsmtHl")
_ORACLE: Final = Program(login=True, takes="LMCR")
_DOCKER_LOGIN: Final = Program(letters="p", takes="u")
_DOCKER: Final = Program(prose=words_of("--secret"))
_KEYTOOL: Final = Program(
    words=words_of("-storepass -keypass -srcstorepass -deststorepass -srckeypass -destkeypass")
)
_HTTPIE: Final = Program(pair="a", takes="Aophsv", pair_words=words_of("--auth"))
_CURL: Final = Program(
    pair="uU",
    takes="AbcCdDeFhHKmoPQrtTwxXyYzE",
    pair_words=words_of("--user --proxy-user --socks5-user"),
    assigned=words_of("-b"),
    words=words_of("--pass --oauth2-bearer --proxy-pass --tlspassword"),
)

# A key of two words is a program and its first argument.
PROGRAMS: Final[Mapping[str, Program]] = {
    "7z": _SEVEN_ZIP,
    "7za": _SEVEN_ZIP,
    "7zr": _SEVEN_ZIP,
    "7zz": _SEVEN_ZIP,
    "ab": Program(pair="AP", takes="ncttbspTvCHXyzgehRmdkIu"),
    "aws": Program(
        after={"aws_secret_access_key": (1,), "aws_session_token": (1,), "aws_access_key_id": (1,)}
    ),
    "az login": Program(letters="p", takes="ut"),
    "bcp": Program(letters="P", takes="SUdtrqeFLbaih"),
    "buildah": _DOCKER,
    "cargo login": Program(after={"login": (1,)}),
    "ccrypt": Program(letters="K", takes="kEHyS"),
    "cf login": Program(letters="p", takes="auos"),
    "composer": Program(after={"http-basic": (2,)}),
    "cqlsh": Program(letters="p", takes="uefk"),
    "crackmapexec": Program(letters="pH", takes="udtxX"),
    "curl": _CURL,
    "docker": _DOCKER,
    "docker login": _DOCKER_LOGIN,
    "doveadm pw": Program(letters="p", takes="srt"),
    "etcdctl": Program(pair_words=words_of("--user")),
    "exp": _ORACLE,
    "expdp": _ORACLE,
    "fly secrets": Program(assigns=words_of("set")),
    "flyctl secrets": Program(assigns=words_of("set")),
    "gh secret": Program(letters="b", takes="eoruav", words=words_of("--body")),
    "git": Program(prose=words_of("-m --message -am --grep -S -G")),
    "git-commit": Program(prose=words_of("-m --message -am")),
    "gotty": Program(pair="c", takes="ap"),
    "gpg-preset-passphrase": Program(letters="P"),
    "helm registry": Program(letters="p", takes="u"),
    "heroku": Program(assigns=words_of("config:set")),
    "hg": Program(prose=words_of("-m --message")),
    "htpasswd": Program(takes="Cr", last_with="b"),
    "http": _HTTPIE,
    "https": _HTTPIE,
    "hydra": Program(letters="p", takes="lLPCtsoMm"),
    "imp": _ORACLE,
    "impdp": _ORACLE,
    "ipmitool": Program(letters="Pky", takes="HUILtbBoeCpAfORSTvKc"),
    "isql": Program(letters="P", takes="SUDwhcos"),
    "iwconfig": Program(after={"key": (1,)}),
    "iw": Program(after={"key": (1,)}),
    "jarsigner": _KEYTOOL,
    "kadmin": Program(letters="w", takes="rpqsckOx"),
    "keytool": _KEYTOOL,
    "kubectl": Program(assigned=words_of("--from-literal")),
    "ldapadd": _LDAP,
    "ldapcompare": _LDAP,
    "ldapdelete": _LDAP,
    "ldapexop": _LDAP,
    "ldapmodify": _LDAP,
    "ldapmodrdn": _LDAP,
    "ldappasswd": _LDAP_PASSWORD,
    "ldapsearch": _LDAP,
    "ldapwhoami": _LDAP,
    "lftp": Program(pair="u", separator=",", takes="efpsc"),
    "mariadb": _MYSQL_CLIENT,
    "mariadb-admin": _MYSQL,
    "mariadb-dump": _MYSQL_CLIENT,
    "mc": Program(after={"set": (3, 4)}),
    "mkpasswd": Program(takes="mSRP", after={"": (1,)}),
    "mongo": _MONGO,
    "mongodump": _MONGO,
    "mongoexport": _MONGO,
    "mongoimport": _MONGO,
    "mongorestore": _MONGO,
    "mongosh": _MONGO,
    "mongostat": _MONGO,
    "mosquitto_passwd": Program(last_with="b"),
    "mosquitto_pub": _MOSQUITTO,
    "mosquitto_rr": _MOSQUITTO,
    "mosquitto_sub": _MOSQUITTO,
    "mysql": _MYSQL_CLIENT,
    "mysqladmin": _MYSQL,
    "mysqlcheck": _MYSQL_CLIENT,
    "mysqldump": _MYSQL_CLIENT,
    "mysqlimport": _MYSQL_CLIENT,
    "mysqlshow": _MYSQL_CLIENT,
    "mysqlslap": _MYSQL_CLIENT,
    "net": _SAMBA._replace(after={"\\\\": (1,)}),
    "ngrok": Program(after={"authtoken": (1,), "add-authtoken": (1,)}),
    "nmcli": Program(
        after=dict.fromkeys(
            ("password", "wifi-sec.psk", "802-11-wireless-security.psk", "802-1x.password", "wep-key0"), (1,)
        )
    ),
    "oc login": Program(letters="p", takes="un"),
    "openssl": Program(words=words_of("-k -K")),
    "openssl passwd": Program(
        after={"passwd": (1,)}, takes_words=words_of("-salt -in -table"), words=words_of("-k")
    ),
    "pdftk": Program(after=dict.fromkeys(("input_pw", "user_pw", "owner_pw"), (1,))),
    "pg_basebackup": _POSTGRES,
    "pg_dump": _POSTGRES,
    "pg_dumpall": _POSTGRES,
    "pg_restore": _POSTGRES,
    "pkcs11-tool": Program(letters="p", takes="mdtaoiyl", words=words_of("--new-pin --puk")),
    "plink": Program(words=words_of("-pw")),
    "podman": _DOCKER,
    "podman login": _DOCKER_LOGIN,
    "poetry config": Program(after={"pypi-token": (1,), "http-basic": (2,)}),
    "pppd": Program(after={"password": (1,)}),
    "pscp": Program(words=words_of("-pw")),
    "psftp": Program(words=words_of("-pw")),
    "psql": _POSTGRES,
    "rabbitmqadmin": Program(letters="p", takes="HPuVcNf"),
    "rabbitmqctl": Program(
        after=dict.fromkeys(("add_user", "change_password", "authenticate_user"), (2,)), takes="np"
    ),
    "rar": _RAR,
    "rclone": Program(after={"obscure": (1,), "pass": (1,)}),
    "rdesktop": Program(letters="p", takes="udsnckKgtTaxrB"),
    "redis-cli": Program(words=words_of("-a --pass")),
    "rman": _ORACLE,
    "rpcclient": _SAMBA,
    "slappasswd": Program(letters="s", takes="hcTFf"),
    "smbclient": _SAMBA,
    "smbget": _SAMBA,
    "smbmap": Program(letters="p", takes="udHPsxR"),
    "smbtree": _SAMBA,
    "snmpbulkwalk": _SNMP,
    "snmpget": _SNMP,
    "snmpset": _SNMP,
    "snmptrap": _SNMP,
    "snmpwalk": _SNMP,
    "sqlcmd": _SQLCMD,
    "sqlplus": _ORACLE,
    "ssh-keygen": Program(letters="NP", takes="bCtfmnOIVDErszZaFRwY"),
    "sshpass": Program(letters="p", takes="fdP"),
    "steghide": Program(words=words_of("-p")),
    "svn": Program(prose=words_of("-m --message")),
    "swaks": Program(words=words_of("-ap --auth-password")),
    "sendemail": Program(words=words_of("-xp")),
    "teamviewer": Program(after={"passwd": (1,)}),
    "tsql": Program(letters="P", takes="SUDHpo"),
    "ttyd": Program(pair="c", takes="pitsbIPma"),
    "twine": Program(letters="p", takes="uri"),
    "unrar": _RAR,
    "unzip": Program(letters="P", takes="dxOI"),
    "useradd": Program(letters="p", takes="bcdefgGkKRsuZ"),
    "usermod": Program(letters="p", takes="cdefgGlRsuvVwWZ"),
    "groupadd": Program(letters="p", takes="gKR"),
    "vault": Program(after={"login": (1,)}, assigns=words_of("put write patch")),
    "veracrypt": Program(letters="p", takes="kN"),
    "wbinfo": Program(pair="aK", separator="%"),
    "winexe": _SAMBA,
    "wpa_cli": Program(after={"psk": (1,), "password": (1,), "wep_key0": (1,)}, takes="pigaPB"),
    "wpa_passphrase": Program(after={"": (2,)}),
    "x11vnc": Program(words=words_of("-passwd -viewpasswd")),
    "xfreerdp": _FREERDP,
    "xfreerdp3": _FREERDP,
    "wlfreerdp": _FREERDP,
    "zip": _ZIP,
    "zipcloak": _ZIP,
}
