#!/bin/bash
# Runs a program of this machine on an emulated processor that has AVX-512, AVX-512 BF16 and AMX, on one thread:
#
#   tools/emulator/run.sh PROGRAM [ARGUMENT...]
#
# README.md says what it needs and where that is looked for. The program's output and exit code are those of this script.
set -euo pipefail

bochs=${BOCHS:-bochs}
kernel=${KERNEL:?the image of a Linux 6.12 kernel}
bios=${BIOS:-/usr/share/bochs/BIOS-bochs-latest}
vgabios=${VGABIOS:-/usr/share/vgabios/vgabios.bin}
isolinux=${ISOLINUX:-/usr/lib/ISOLINUX/isolinux.bin}
syslinux=${SYSLINUX:-/usr/lib/syslinux/modules/bios}

[ $# -gt 0 ] || { echo "usage: tools/emulator/run.sh PROGRAM [ARGUMENT...]" >&2; exit 2; }
program=$1
shift
arguments=$(printf ' %q' "$@")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The system: busybox, the program and its libraries.
root=$work/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,program} "$work/disc"
cp "$(command -v busybox)" "$root/bin/busybox"
for applet in sh mount poweroff sync; do ln -s busybox "$root/bin/$applet"; done
cp "$program" "$root/program/it"
ldd "$program" | grep -o '/[^ ]*' | while read -r library; do cp --dereference --parents "$library" "$root"; done
cat > "$root/init" <<INIT
#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
export RAYON_NUM_THREADS=1
cd /tmp
echo BEGIN
/program/it$arguments
echo "END \$?"
sync
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --create --format=newc --quiet) > "$work/disc/initrd"

# The disc that it starts from. With xsaves, kernel 6.12 stops early on this emulator.
cp "$kernel" "$work/disc/vmlinuz"
cp "$isolinux" "$syslinux/ldlinux.c32" "$work/disc/"
cat > "$work/disc/isolinux.cfg" <<CONFIG
DEFAULT it
LABEL it
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0,115200 quiet loglevel=1 nokaslr noxsaves nopti mitigations=off
CONFIG
xorriso -as mkisofs -quiet -o "$work/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
    "$work/disc" 2> /dev/null

# Five-level paging, `tpause` in the kernel's delays and what guards its control flow do not work under the emulator.
cat > "$work/bochsrc" <<CONFIG
megs: 4096
cpu: model=sapphire_rapids, count=1, ips=100000000, ignore_bad_msrs=1, exclude_features="la57,waitpkg,cet,pks"
romimage: file=$bios
vgaromimage: file=$vgabios
ata0-master: type=cdrom, path=$work/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$work/output
log: $work/log
display_library: nogui
clock: sync=none, time0=utc
CONFIG
"$bochs" -q -f "$work/bochsrc" > "$work/console" 2>&1 || true

tr -d '\r' < "$work/output" | sed -n '/^BEGIN$/,/^END /p' | sed '1d; $d'
code=$(tr -d '\r' < "$work/output" | sed -n 's/^END \([0-9]*\)$/\1/p')
[ -n "$code" ] || { echo "the emulated system stopped early:" >&2; tail -n 20 "$work/output" "$work/console" >&2; exit 1; }
exit "$code"
