# Two packages; their files' times are fixed, so that all Pods get the same bytes.
make_deb() {
    mkdir -p "$1/DEBIAN"
    printf 'Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: n <e@example.org>\nDescription: d\n%s' \
        "$1" "$2" > "$1/DEBIAN/control"
}
make_deb helper ''
mkdir -p helper/usr/libexec
printf '#!/bin/sh\necho hello from helper\n' > helper/usr/libexec/helper
chmod 755 helper/usr/libexec/helper
make_deb greeter 'Depends: helper
'
mkdir -p greeter/usr/bin greeter/etc
ln -s ../libexec/helper greeter/usr/bin/greeter
echo setting > greeter/etc/greeter.conf
echo /etc/greeter.conf > greeter/DEBIAN/conffiles
cat > greeter/DEBIAN/postinst <<'SCRIPT'
#!/bin/sh
set -e
mkdir -p /var/lib/greeter
chown games:nogroup /var/lib/greeter
chmod 2770 /var/lib/greeter
update-alternatives --quiet --install /usr/bin/greet greet /usr/bin/greeter 10
SCRIPT
cat > greeter/DEBIAN/prerm <<'SCRIPT'
#!/bin/sh
set -e
update-alternatives --quiet --remove greet /usr/bin/greeter
SCRIPT
chmod 755 greeter/DEBIAN/postinst greeter/DEBIAN/prerm
for name in helper greeter; do
    SOURCE_DATE_EPOCH=1577934245 dpkg-deb --root-owner-group -Zgzip --build $name . > /dev/null
    rm -r $name
done
