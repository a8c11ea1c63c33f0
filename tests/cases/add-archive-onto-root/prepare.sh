mkdir -p ../stuff/srv/app ../stuff/etc && cd ../stuff
echo conf > etc/app.conf; echo x > srv/app/x; chmod 2750 srv/app
tar --sort=name --owner=1000:1000 --group=1000:1000 -cf ../context/root.tar etc srv/app
