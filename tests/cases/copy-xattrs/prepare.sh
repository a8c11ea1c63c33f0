setfattr -n user.comment -v 'of a file' tree/f.txt
setfattr -n user.comment -v 'of a directory' tree
