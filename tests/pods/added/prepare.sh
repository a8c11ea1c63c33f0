mkdir -p tree/sub deep/er
echo one > tree/one
ln tree/one tree/sub/other-name
ln -s ../one tree/sub/link
mkfifo tree/fifo
echo setuid > tree/setuid
chown 1234:99 tree/setuid
chmod 6755 tree/setuid
mkdir -m 1777 tree/sticky
echo file > deep/er/file
tar --sort=name --mtime=@1577934245 -czf tree.tar.gz -C tree .
rm -r tree
