#!/bin/bash
# Runs a program of this machine on an emulated processor that has AVX-512, AVX-512 BF16 and AMX:
#
#   tools/emulator/run.sh PROGRAM [ARGUMENT...]
#
# README.md says what it needs. The program's exit code is that of this script; its output, standard error too, comes when it has
# ended. LIMIT is the time that it may take, as `timeout` reads it.
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "usage: tools/emulator/run.sh PROGRAM [ARGUMENT...]" >&2
    exit 2
fi
program=$1
shift
arguments=
[ $# -eq 0 ] || arguments=$(printf ' %q' "$@")

bochs=${BOCHS:-bochs}
kernel=${KERNEL:?the image of a Linux 6.12 kernel}
bios=${BIOS:-/usr/share/bochs/BIOS-bochs-latest}
vgabios=${VGABIOS:-/usr/share/vgabios/vgabios.bin}
isolinux=${ISOLINUX:-/usr/lib/ISOLINUX/isolinux.bin}
syslinux=${SYSLINUX:-/usr/lib/syslinux/modules/bios}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The system: busybox, the program and its libraries.
root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,program} "$work/disc"
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in sh mount poweroff sleep; do ln -s busybox "$root/bin/$applet"; done
cp "$program" "$root/program/it"
libraries=$(ldd "$program" || true)
for library in $(grep -o '/[^ ]*' <<< "$libraries" || true); do cp --dereference --parents "$library" "$root"; done
cat > "$root/init" <<INIT
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
export RAYON_NUM_THREADS=1
cd /tmp
echo EMULATED-PROGRAM-BEGINS
/program/it$arguments
code=\$?
echo
echo "EMULATED-PROGRAM-ENDS \$code"
# Until the serial line has sent all.
sleep 5
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --create --format=newc --quiet) > "$work/disc/initrd"

# The disc that it starts from. With xsaves, kernel 6.12 stops early on this emulator; the rest of its arguments saves time.
cp "$kernel" "$work/disc/vmlinuz"
cp "$isolinux" "$syslinux/ldlinux.c32" "$work/disc/"
cat > "$work/disc/isolinux.cfg" <<CONFIG
DEFAULT it
LABEL it
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0,115200 quiet loglevel=1 panic=1 noxsaves nokaslr nopti mitigations=off
CONFIG
if ! xorriso -as mkisofs -quiet -o "$work/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 \
    -boot-info-table "$work/disc" > "$work/console" 2>&1; then
    cat "$work/console" >&2
    exit 1
fi

# What is excluded does not work under the emulator: five-level paging, `tpause` in the kernel's delays, guards of its control flow
# and keys of its pages.
cat > "$work/bochsrc" <<CONFIG
megs: 2048
cpu: model=sapphire_rapids, count=1, ips=100000000, ignore_bad_msrs=1, exclude_features="la57,waitpkg,cet,pks"
romimage: file=$bios
vgaromimage: file=$vgabios
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/output
log: $work/log
panic: action=fatal
display_library: nogui
clock: sync=none, time0=utc
CONFIG
touch "$work/output" "$work/log"
timeout "${LIMIT:-3h}" "$bochs" -q -f "$work/bochsrc" < /dev/null > "$work/console" 2>&1 || true

tr -d '\r' < "$work/output" > "$work/lines"
code=$(sed -n 's/^EMULATED-PROGRAM-ENDS \([0-9]*\)$/\1/p' "$work/lines" | tail -n 1)
sed -n '/^EMULATED-PROGRAM-BEGINS$/,/^EMULATED-PROGRAM-ENDS /p' "$work/lines" | sed '/^EMULATED-PROGRAM-/d'
if [ -z "$code" ]; then
    echo "the emulated system stopped early, or took more than LIMIT:" >&2
    tail -n 20 "$work/lines" "$work/console" "$work/log" >&2
    exit 1
fi
exit "$code"
