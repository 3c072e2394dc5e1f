#!/bin/sh
# Sets a Debian or Ubuntu machine up to run Kourou under systemd. Run it again to upgrade or to add a role: what is there
# already stays, config files above all.
set -eu

PREFIX=/opt/kourou
CONFIG=/etc/kourou
STATE=/var/lib/kourou
UNITS=/etc/systemd/system
ACCOUNT=kourou
HERE=$(cd "$(dirname "$0")" && pwd)

usage() {
    cat <<'END'
usage: install.sh --package PACKAGE [--role ROLE]... [options]
       install.sh --uninstall [--purge]

  --package PACKAGE    what pip installs: a wheel (kourou-0.1.0-py3-none-any.whl), a directory with the sources, or a
                       requirement with its version (kourou==0.1.0) from the index that pip is configured for
  --role ROLE          standalone, nameserver, proxy, or broker=NAME[:ID]: ID 0 (default) is the group's first master.
                       May be given several times; none: only the program is installed
  --host ADDRESS       on which the roles listen, in new config files (default: 127.0.0.1)
  --nameservers A,B    hosts of the nameservers, in new config files (default: 127.0.0.1)
  --no-start           enable the services, but don't start them now
  --python PYTHON      a Python of 3.11 or newer (default: python3)
  --uninstall          stop and remove the services and the program; config and data stay
  --purge              with --uninstall: remove config, data and the user, too

PIP_INDEX_URL, PIP_FIND_LINKS and the other variables of pip are honoured.
END
}

fail() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "install.sh: $*"; }

package= roles= host=127.0.0.1 nameservers=127.0.0.1 start=yes python=python3 uninstall= purge=
while [ $# -gt 0 ]; do
    case $1 in
        --package | --role | --host | --nameservers | --python)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case $1 in
                --package) package=$2 ;;
                --role) roles="$roles $2" ;;
                --host) host=$2 ;;
                --nameservers) nameservers=$2 ;;
                --python) python=$2 ;;
            esac
            shift 2 ;;
        --no-start) start=; shift ;;
        --uninstall) uninstall=yes; shift ;;
        --purge) purge=yes; shift ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; fail "there is no option $1" ;;
    esac
done

# ---- checks, before anything is changed

check_system() {
    [ "$(uname -s)" = Linux ] && [ -r /etc/os-release ] || fail "this is no Debian or Ubuntu"
    system=$(. /etc/os-release && echo " ${ID:-} ${ID_LIKE:-} ")
    case $system in
        *" debian "* | *" ubuntu "*) ;;
        *) fail "this is no Debian or Ubuntu, but:$system. docs/deployment.md tells what to do by hand" ;;
    esac
    [ "$(id -u)" = 0 ] || fail "this needs root"
    command -v systemctl >/dev/null || fail "there is no systemd here"
}

check_words() {
    case $host in *[!0-9A-Za-z.:_-]* | "") fail "--host $host is no address" ;; esac
    case $nameservers in *[!0-9A-Za-z.,_-]* | "" | ,* | *, | *,,*)
        fail "--nameservers $nameservers is no list of hosts (without ports)" ;;
    esac
    for role in $roles; do
        case $role in
            standalone | nameserver | proxy) ;;
            broker=*)
                name=${role#broker=} number=0
                case $name in *:*) number=${name##*:} name=${name%:*} ;; esac
                # the name is a part of file and unit names
                case $name in *[!0-9A-Za-z_-]* | "" | -*) fail "--role $role: $name is no name for a broker" ;; esac
                case $number in *[!0-9]* | "") fail "--role $role: $number is no number" ;; esac ;;
            *) fail "there is no role $role: standalone, nameserver, proxy or broker=NAME[:ID]" ;;
        esac
    done
}

running() { [ -d /run/systemd/system ]; }

# ---- uninstall

remove() {
    for unit in "$UNITS"/multi-user.target.wants/kourou-*.service; do
        [ -e "$unit" ] || [ -L "$unit" ] || continue
        if running; then systemctl disable --now "$(basename "$unit")"; else rm -f "$unit"; fi
    done
    rm -f "$UNITS/kourou-standalone.service" "$UNITS/kourou-nameserver.service" "$UNITS/kourou-proxy.service" \
        "$UNITS/kourou-broker@.service"
    if running; then systemctl daemon-reload; fi
    if [ "$(readlink /usr/local/bin/kourou || true)" = "$PREFIX/bin/kourou" ]; then rm -f /usr/local/bin/kourou; fi
    rm -rf "$PREFIX"
    if [ -n "$purge" ]; then
        rm -rf "$CONFIG" "$STATE"
        if id "$ACCOUNT" >/dev/null 2>&1; then userdel "$ACCOUNT"; fi
        say "removed, with config and data"
    else
        say "removed; config stays in $CONFIG, data in $STATE"
    fi
}

# ---- install

install_python() {
    if [ "$python" = python3 ] && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        say "installing python3-venv"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv ca-certificates
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "Kourou needs Python 3.11 or newer, and $python is $("$python" --version 2>&1 || true) (Debian 12, Ubuntu 24.04
or later have it; or install one and give it with --python)"
}

make_account() {
    id "$ACCOUNT" >/dev/null 2>&1 ||
        useradd --system --user-group --home-dir "$STATE" --no-create-home --shell /usr/sbin/nologin "$ACCOUNT"
    install -d -m 0755 "$CONFIG"
    install -d -m 0750 -o "$ACCOUNT" -g "$ACCOUNT" "$STATE"
}

# The fingerprint of what is installed: the same wheel again changes nothing, another one of the same version does.
install_program() {
    case $package in
        *.whl) [ -f "$package" ] || fail "there is no file $package"; mark=$(sha256sum <"$package") ;;
        */* | .) [ -d "$package" ] || fail "there is no directory $package"; mark= ;;
        *==*) mark="$package " ;;
        *) fail "--package $package: give a wheel, a directory, or a requirement with its version (kourou==0.1.0)" ;;
    esac
    if [ -n "$mark" ] && [ "$(cat "$PREFIX/.installed" 2>/dev/null || true)" = "$mark" ]; then
        say "$package is installed already"
        return
    fi
    [ -x "$PREFIX/bin/python" ] || "$python" -m venv "$PREFIX"
    rm -f "$PREFIX/.installed"
    case $package in
        *==*) "$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check "kourou[server]==${package#*==}" ;;
        *)
            "$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check "$package[server]"
            "$PREFIX/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$package" ;;
    esac
    echo "$mark" >"$PREFIX/.installed"
    changed=yes
    ln -sf "$PREFIX/bin/kourou" /usr/local/bin/kourou
    say "installed $package in $PREFIX"
}

# put SOURCE TARGET: copy when it differs
put() {
    if ! cmp -s "$1" "$2"; then
        install -m 0644 "$1" "$2"
        changed=yes
    fi
}

# list PORT: the nameservers as TOML, each with the port
list() { echo "[\"$(echo "$nameservers" | sed "s/,/:$1\", \"/g"):$1\"]"; }

# configure EXAMPLE FILE [SED EXPRESSION...]: a config file from its example, unless there is one
configure() {
    example=$1 file=$2
    shift 2
    if [ -e "$file" ]; then
        say "$file stays as it is"
        return
    fi
    sed -e "s/^host = .*/host = \"$host\"/" "$@" "$HERE/config/$example" >"$file.new"
    chown "root:$ACCOUNT" "$file.new"
    chmod 0640 "$file.new"
    mv "$file.new" "$file"
    say "wrote $file"
}

install_role() {
    case $1 in
        standalone | nameserver)
            unit=kourou-$1.service
            configure "$1.toml" "$CONFIG/$1.toml" ;;
        proxy)
            unit=kourou-proxy.service
            configure proxy.toml "$CONFIG/proxy.toml" -e "s/^nameservers = \[[^]]*\]/nameservers = $(list 9876)/" ;;
        broker=*)
            name=${1#broker=} number=0
            case $name in *:*) number=${name##*:} name=${name%:*} ;; esac
            unit=kourou-broker@$name.service
            configure broker.toml "$CONFIG/broker-$name.toml" -e "s/^name = \"broker-a\"/name = \"$name\"/" \
                -e "s/^broker-id = 0/broker-id = $number/" -e "s/^nameservers = \[[^]]*\]/nameservers = $(list 9877)/" \
                -e "s,^data = .*,data = \"$STATE/$name\"," ;;
    esac
    systemctl enable --quiet "$unit"
    [ -n "$start" ] || return 0
    if ! running; then
        say "$unit is enabled; systemd does not run here, so it was not started"
    elif [ -n "$changed" ]; then
        say "starting $unit"
        systemctl restart "$unit" || fail "$unit does not start; look at: journalctl -u $unit"
    else
        systemctl start "$unit" || fail "$unit does not start; look at: journalctl -u $unit"
    fi
}

[ -n "$uninstall" ] || [ -z "$purge" ] || fail "--purge goes with --uninstall"
[ -n "$uninstall" ] || [ -n "$package" ] || { usage >&2; fail "--package is missing"; }
check_words
check_system
if [ -n "$uninstall" ]; then
    remove
    exit 0
fi
changed=
install_python
make_account
install_program
for unit in "$HERE"/../systemd/kourou-*.service; do
    put "$unit" "$UNITS/$(basename "$unit")"
done
if [ -n "$changed" ] && running; then systemctl daemon-reload; fi
for role in $roles; do
    install_role "$role"
done
say "done"
