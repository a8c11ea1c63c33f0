ln -s ../../../../etc/issue escape
