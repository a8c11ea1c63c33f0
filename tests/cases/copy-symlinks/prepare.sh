ln -s target.txt link-to-file
ln -s real link-to-dir
ln -s plain.txt dir/relative
ln -s /etc/passwd dir/absolute
ln -s nowhere dir/dangling
ln -s ../target.txt dir/up
ln -s ../../../../etc/shadow dir/outside
