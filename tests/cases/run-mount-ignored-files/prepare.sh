# owners and odd modes of the machine's own
ln -s keep link
chown 1000:1001 keep/one top
chmod 0640 keep/one
chmod 0700 keep
ln keep/one keep/same
