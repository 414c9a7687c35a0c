# dpkg: building a package, installing it over the read-only image, configuring, removing.
set -u
mkdir -p pkg/DEBIAN pkg/usr/bin pkg/etc/hello pkg/usr/share/doc/hello
cat >pkg/DEBIAN/control <<'END'
Package: hello-local
Version: 1.2-3
Architecture: all
Maintainer: Nobody <nobody@example.org>
Depends: bash
Description: a package made on the spot
 With a longer text.
END
echo /etc/hello/conf >pkg/DEBIAN/conffiles; echo setting=1 >pkg/etc/hello/conf
printf '#!/bin/sh\necho "postinst $1"; touch /var/lib/hello-was-here\n' >pkg/DEBIAN/postinst
printf '#!/bin/sh\necho "prerm $1"\n' >pkg/DEBIAN/prerm; chmod 755 pkg/DEBIAN/postinst pkg/DEBIAN/prerm
printf '#!/bin/sh\necho "hello from the package"\n' >pkg/usr/bin/hello-local; chmod 755 pkg/usr/bin/hello-local; seq 1 100 >pkg/usr/share/doc/hello/README
dpkg-deb --root-owner-group -Zxz -b pkg hello.deb >/dev/null && dpkg-deb -f hello.deb Version && dpkg-deb -c hello.deb | awk '{ print $1, $2, $6 }'
dpkg -i hello.deb 2>/dev/null | grep -v 'Reading database'; echo "dpkg ${PIPESTATUS[0]}"; hello-local; ls /var/lib/hello-was-here; dpkg -s hello-local | grep -E '^(Status|Version)'; dpkg -L hello-local | sort; dpkg -S /usr/bin/hello-local; dpkg-query -W hello-local; dpkg -V hello-local; echo "verify $?"
echo setting=2 >/etc/hello/conf; dpkg -V hello-local | awk '{ print $NF }'; sed -i 's/1.2-3/1.2-4/' pkg/DEBIAN/control; dpkg-deb --root-owner-group -b pkg newer.deb >/dev/null; dpkg -i --force-confold newer.deb 2>/dev/null | grep -v 'Reading database'; cat /etc/hello/conf
dpkg -r hello-local 2>/dev/null | grep -v 'Reading database'; ls /usr/bin/hello-local 2>/dev/null; dpkg -s hello-local | grep ^Status; dpkg -P hello-local 2>/dev/null | grep -v 'Reading database'; ls /etc/hello 2>&1; dpkg --compare-versions 1.2-3 lt 1.10 && echo older; dpkg --audit; echo "audit $?"; dpkg -l | grep -c '^ii' | awk '{ print ($1 > 50) }'
