"""Command lines that carry secrets, and for each one that only looks like it. One rule: data, read by people.

A pair is two lines: the command line with its secrets between « and », then, indented, the look-alike that
stays as it is. Quoting is the shell's (shlex.split makes the arguments).
"""

from __future__ import annotations

import shlex
from typing import Final, NamedTuple

from procmond.collect.redaction_shapes import MARK

TABLE: Final = r"""
# general flags: separate, with =, one dash
app --password «hunter2»
    app --password-file /etc/app/pw
app --password=«hunter2»
    app --password-file=/etc/x
app --password="«correct horse battery»"
    app --password-prompt="Your secret, please"
app -password «hunter2» -v
    app -no-password -v
app --passwd=«hunter2»
    app --no-password
app --passphrase "«open sesame»"
    app --passphrase-fd 3
app --passphrase=«sesame»
    app --passphrase-file=/root/p
app --pass «sesame»
    app --bypass all
app --pass=«sesame»
    app --compass=north
app --db-pass=«sesame»
    app --db-pass-file=/run/x
app --token «abc123»
    app --token-ttl 30
app --token=«abc123»
    app --token-ttl=30
app --auth-token=«abc123»
    app --auth-token-ttl=30
app --api-token «abc123»
    app --max-tokens 4096
app --bearer-token «abc123»
    app --bearer-token-file /run/token
app --secret «abc123»
    app --secret-name db
app --secret=«abc123»
    app --secret-id-ttl=10m
app --client-secret «abc123»
    app --client-id abc123
app --client-secret=«abc123»
    app --client-secret-file=/etc/client.json
app --clientSecret=«abc123»
    app --clientSecretName=web
app --api-key «abc123»
    app --api-key-file /etc/key
app --api-key=«abc123»
    app --api-key-id=7
app --apikey=«abc123»
    app --apikey-header=X-Key
app --apiKey «abc123»
    app --apiUrl http://localhost/
app --access-key «AK123»
    app --access-key-file /etc/ak
app --secret-key=«abc123»
    app --secret-key-file=/etc/sk
app --secret-access-key=«abc123»
    app --secret-access-policy=none
app --encryption-key=«c2VjcmV0»
    app --encryption-key=/etc/keys/data.key
app --private-key=«MIIEvQ»
    app --private-key=/etc/ssl/server.pem
ansible-playbook --private-key «b3BlbnNzaA» site.yml
    ansible-playbook --private-key ~/.ssh/id_ed25519 site.yml
app --auth-key «abc123»
    app --auth-mode key
app --credentials=«abc:def»
    app --credentials=/etc/app/credentials.json
app --auth user:«hunter2»
    app --auth ldap
app --auth=user:«hunter2»
    app --auth=ldap
app --basic-auth=user:«hunter2»
    app --basic-auth=on
app --pin «123456»
    app --ping 5
app --cookie «sid=8472»
    app --cookie-jar /tmp/jar
app --psk «0123abcd»
    app --psk-file /etc/psk
app --jwt=«abc.def»
    app --jwt-issuer=https://issuer/
app --password2=«hunter3»
    app --password2-file=/etc/x
app --smtp-password=«hunter2» --smtp-host=mail
    app --smtp-host=mail --smtp-port=25
app /password:«hunter2»
    app /passive:yes
java -Dx.password=«hunter2» -jar app.jar
    java -Dx.password.file=/etc/x -jar app.jar
java -Djavax.net.ssl.keyStorePassword=«changeit» Main
    java -Djavax.net.ssl.keyStore=/etc/keystore.jks Main
java -Djavax.net.ssl.trustStorePassword=«changeit» Main
    java -Djavax.net.ssl.trustStoreType=jks Main
java -Dspring.datasource.password=«hunter2» -jar a.jar
    java -Dspring.datasource.username=app -jar a.jar
java -Ddb.pass=«hunter2» Main
    java -Ddb.passive=true Main
java -Dapi.key=«abc» Main
    java -Dsort.key=name Main
# assignments
env PGPASSWORD=«hunter2» psql -h db
    env PGPASSFILE=/root/.pgpass psql -h db
env MYSQL_PWD=«hunter2» mysqldump shop
    env PWD=/srv OLDPWD=/root mysqldump shop
env AWS_SECRET_ACCESS_KEY=«wJalrXUtnFEMI/K7MDENG» aws s3 ls
    env AWS_PROFILE=prod aws s3 ls
env AWS_SESSION_TOKEN=«FwoGZXIvYXdzE» aws s3 ls
    env AWS_WEB_IDENTITY_TOKEN_FILE=/run/t aws s3 ls
env GITHUB_TOKEN=«abc» gh pr list
    env GH_REPO=a/b gh pr list
env BORG_PASSPHRASE=«sesame» borg create r::a /srv
    env BORG_PASSCOMMAND=/usr/bin/getpw borg create r::a /srv
env RESTIC_PASSWORD=«sesame» restic backup /srv
    env RESTIC_PASSWORD_FILE=/etc/r restic backup /srv
env VAULT_TOKEN=«s.abc» vault kv get x
    env VAULT_ADDR=https://vault:8200 vault kv get x
env SSHPASS=«hunter2» sshpass -e ssh db
    env SSH_ASKPASS=/usr/bin/ask ssh db
env DJANGO_SECRET_KEY=«abc» gunicorn app
    env DJANGO_SETTINGS_MODULE=app.settings gunicorn app
env SECRET_KEY_BASE=«abc» puma
    env SECRET_NAME=abc puma
env DBPASSWORD=«abc» app
    env DBPASSWORDLESS=yes app
env GOOGLE_APPLICATION_CREDENTIALS=«{}abc» app
    env GOOGLE_APPLICATION_CREDENTIALS=/etc/gcp.json app
docker run -e DB_PASSWORD=«hunter2» -p 80:80 web
    docker run -e DB_HOST=db -p 80:80 web
docker run -eAPI_KEY=«abc» web
    docker run -eAPI_URL=http://x/ web
docker run --env API_KEY=«abc» web
    docker run --env API_KEY web
docker run --env=SECRET_TOKEN=«abc» web
    docker run --env-file=/etc/secret.env web
docker build --build-arg NPM_TOKEN=«abc» .
    docker build --secret id=npm,src=/root/.npmrc .
podman run -e MYSQL_ROOT_PASSWORD=«hunter2» mysql
    podman run --secret db-password mysql
systemd-run --setenv=DB_PASSWORD=«hunter2» app
    systemd-run --setenv=DB_PASSWORD_FILE=/etc/x app
# headers, in one argument or two
curl -H "Authorization: «Bearer abc»" https://api/
    curl -H "Accept: application/json" https://api/
curl -H "Authorization: «Basic dTpw»" https://api/
    curl -H "WWW-Authenticate: Basic" https://api/
curl --header "X-Api-Key: «abc»" https://api/
    curl --header "X-Api-Version: 3" https://api/
curl --header="X-Auth-Token: «abc»" https://api/
    curl --header="X-Request-Id: abc" https://api/
curl -HX-Api-Key:«abc» https://api/
    curl -HX-Trace:abc https://api/
curl -H "Authorization:«Bearer abc»" https://api/
    curl -H "Authority: example.org" https://api/
curl -H "Proxy-Authorization: «Basic abc»" https://api/
    curl -H "Proxy-Connection: close" https://api/
curl -H "Cookie: «sid=1; theme=dark»" https://api/
    curl -H "Cookies-Allowed: yes" https://api/
curl -H "PRIVATE-TOKEN: «abc»" https://gitlab/
    curl -H "Token-Type: jwt" https://gitlab/
curl -H "X-Vault-Token: «s.abc»" http://vault/
    curl -H "X-Vault-Namespace: a" http://vault/
client X-Api-Key: «abc» GET /
    client Content-Type: text/plain GET /
client Authorization: Bearer «abc» GET /
    client Accept: text/plain GET /
http GET example.org X-Api-Key:«abc»
    http GET example.org X-Page:2
grpcurl -H "authorization: «bearer abc»" host:443 list
    grpcurl -H "x-tenant: a" host:443 list
wget --header="Authorization: «token abc»" https://x/
    wget --header="Accept-Language: en" https://x/
# URLs and connection strings
psql postgres://u:«pw»@h/db
    psql postgres://u@h/db
psql postgresql://u:«p/w»@h:5432/db
    psql postgresql://h:5432/db
app --database-url=mysql://root:«hunter2»@db:3306/x
    app --database-url=mysql://root@db:3306/x
app redis://:«hunter2»@cache:6379/0
    app redis://cache:6379/0
app amqp://guest:«guest1»@mq/vhost
    app amqp://mq/vhost
app "mongodb://u:«pw»@h1,h2/db?replicaSet=a"
    app "mongodb://h1,h2/db?replicaSet=a"
git clone https://bob:«hunter2»@github.com/x/y.git
    git clone git@github.com:x/y.git
git clone https://x-access-token:«abc»@github.com/x/y
    git clone https://github.com/x/y
git clone https://«ghp_0123456789abcdefghijABCDEFGHIJ012345»@github.com/x/y
    git clone ssh://git@github.com/x/y
curl ftp://u:«pw»@ftp/x
    curl ftp://ftp/x@2
curl "https://api/v1?token=«abc»&page=2"
    curl "https://api/v1?page=2&sort=token"
curl "https://api/v1?a=1&api_key=«abc»"
    curl "https://api/v1?a=1&api_version=2"
curl "https://api/v1?access_token=«abc»#top"
    curl "https://api/v1?access_tokens#top"
curl "https://h/?password=«a%20b»&x=1"
    curl "https://h/reset-password?x=1"
curl -x http://u:«pw»@proxy:3128 https://x/
    curl -x http://proxy:3128 https://x/
pip install --index-url https://u:«pw»@pypi/simple x
    pip install --index-url https://mirror.example/simple x
app "host=db password=«hunter2» user=app"
    app "host=db passfile=/etc/x user=app"
app "password=«x» host=db"
    app "sslpassword_required=0 host=db"
app "Server=db;Uid=sa;Pwd=«hunter2»;Database=x"
    app "Server=db;Uid=sa;Database=x"
app "Data Source=db;Password=«hunter2»"
    app "Data Source=db;Integrated Security=true"
app "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=«abc==»"
    app "DefaultEndpointsProtocol=https;AccountName=a"
app "Endpoint=sb://x/;SharedAccessKeyName=r;SharedAccessKey=«abc=»"
    app "Endpoint=sb://x/;SharedAccessKeyName=r"
app "root:«hunter2»@tcp(db:3306)/shop"
    app "root@tcp(db:3306)/shop"
app "jdbc:mysql://db/x?user=a&password=«b»"
    app "jdbc:mysql://db/x?user=a&passwordCharacterEncoding=utf8"
java A "jdbc:oracle:thin:scott/«tiger»@//db:1521/x"
    java A "jdbc:oracle:thin:@//db:1521/x"
mount -t cifs //s/x /mnt -o username=bob,password=«hunter2»
    mount -t cifs //s/x /mnt -o username=bob,credentials=/etc/cifs
mount.cifs //s/x /mnt -o pass=«hunter2»,uid=5
    mount.cifs //s/x /mnt -o passive,uid=5
helm install x --set db.password=«hunter2»,db.user=app
    helm install x --set db.passwordSecretRef=x,db.user=app
terraform apply -var "db_password=«hunter2»"
    terraform apply -var-file secret.tfvars
ansible all --extra-vars "ansible_password=«hunter2» env=prod"
    ansible all --ask-pass --extra-vars "env=prod"
ansible all -e ansible_become_pass=«hunter2»
    ansible all --ask-become-pass -e env=prod
ansible all --extra-vars '{"db_password": "«hunter2»", "env": "prod"}'
    ansible all --extra-vars '{"db_password_file": "/etc/x", "env": "prod"}'
# JSON and forms
curl -d '{"password":"«x»"}' https://h/
    curl -d '{"passwords":2}' https://h/
curl -d '{"user": "bob", "apiKey" : "«x»", "n": 1}' https://h/
    curl -d '{"user": "bob", "key": "x", "n": 1}' https://h/
curl -d '{"pin_token":«1234»,"n":1}' https://h/
    curl -d '{"token":null,"n":1}' https://h/
curl -d "{'secret': '«x y»'}" https://h/
    curl -d "{'secret': {'name': 'x'}}" https://h/
curl -d '{\"password\":\"«x»\"}' https://h/
    curl -d '{\"passport\":\"x\"}' https://h/
curl -d "grant_type=password&username=bob&password=«hunter2»" https://h/
    curl -d "grant_type=password&username=bob" https://h/
curl --data-urlencode client_secret=«abc» https://h/
    curl --data-urlencode client_id=abc https://h/
curl --data=password=«x»&user=y https://h/
    curl --data=passport=x&user=y https://h/
curl -F "user[password]=«x»" https://h/
    curl -F "user[name]=x" https://h/
python -c 'connect(password="«x»", user="y")'
    python -c 'if password == expected: connect()'
# tokens nobody mistakes
app «AKIAIOSFODNN7EXAMPLE»
    app AKIAIOSFODNN
app --id=«ASIAIOSFODNN7EXAMPLE»
    app --id=ASIA
app «ghp_0123456789abcdefghijABCDEFGHIJ012345»
    app ghp_release
app «gho_0123456789abcdefghijABCDEFGHIJ012345»
    app high_gho_st
app «github_pat_11ABCDEFG0123456789_abcdefghijklmnop»
    app github_pat_docs
app «xoxb-123456789012-abcdefGHIJKL»
    app xoxb-doc
app «glpat-abcdefghij0123456789»
    app glpat-help
app «npm_0123456789abcdefghijABCDEFGHIJ012345»
    app npm_config_cache
app «sk_live_0123456789abcdefghij»
    app sk_live_docs
app «sk-ant-api03-0123456789abcdefghij»
    app disk-antennas-and-more-words-here
app «AIzaSyA0123456789abcdefghijABCDEFGHIJ01»
    app AIzawl
app «hvs.CAESIJ0123456789abcdefghij»
    app hvs.example.org
app «eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdef»
    app eyJson
app "send Bearer «0123456789abcdef0123» now"
    app "send Bearer of bad news now"
app "-----BEGIN RSA PRIVATE KEY-----«MIIEvQIBADAN»-----END RSA PRIVATE KEY-----"
    app "-----BEGIN CERTIFICATE-----MIIEvQIBADAN-----END CERTIFICATE-----"
# programs
mysql -u root -p«hunter2» shop
    mysql -u root -p shop
mysql -p«hunter2» --user=root
    mysql -P 3306 --user=root
mysqldump -uapp -p«hunter2» --all-databases
    mysqldump -uapple -P3306 --all-databases
mysql --password=«hunter2» shop
    mysql --password shop
mariadb -p«hunter2»
    mariadb --protocol=tcp
mysqladmin -u root password «hunter2»
    mysqladmin -u root ping
sshpass -p «hunter2» ssh -p 22 db
    sshpass -f /etc/pw ssh -p 22 db
sshpass -p«hunter2» ssh db
    sshpass -e ssh -p 2222 db
curl -u user:«pw» https://h/
    curl -u user https://h/
curl -uuser:«pw» https://h/
    curl -o user:pw https://h/
curl --user user:«pw» https://h/
    curl --user-agent Mozilla:5 https://h/
curl -sSu user:«pw» https://h/
    curl -sSo u:v https://h/
curl --proxy-user user:«pw» https://h/
    curl --proxy h:3128 https://h/
curl --oauth2-bearer «abc» https://h/
    curl --oauth2 https://h/
curl -b sid=«8472» https://h/
    curl -b /tmp/jar https://h/
wget --password=«hunter2» https://h/
    wget --ask-password https://h/
wget --http-password «hunter2» https://h/
    wget --http-user bob https://h/
redis-cli -a «hunter2» ping
    redis-cli -p 6379 ping
redis-cli --pass «hunter2» ping
    redis-cli --askpass ping
redis-server --requirepass «hunter2»
    redis-server --port 6379
redis-server --masterauth «hunter2»
    redis-server --masteruser bob
openssl rsa -passin pass:«X» -in k.pem
    openssl rsa -passin env:KEYPASS -in k.pem
openssl pkcs12 -passout pass:«X» -in k.pem
    openssl pkcs12 -passout file:/etc/x -in k.pem
openssl enc -aes-256-cbc -k «X» -in f
    openssl enc -aes-256-cbc -kfile /etc/x -in f
openssl enc -pass pass:«X» -in f
    openssl enc -pass stdin -in f
openssl passwd -1 -salt ab «hunter2»
    openssl passwd -1 -in /etc/x
ldapsearch -x -D cn=admin -w «hunter2» -b dc=x
    ldapsearch -x -D cn=admin -W -b dc=x
ldapmodify -D cn=admin -xw «hunter2» -f f.ldif
    ldapmodify -D cn=admin -y /etc/pw -f f.ldif
ldappasswd -s «new» -w «old» uid=x
    ldappasswd -S -W uid=x
smbclient //s/x -U bob%«hunter2»
    smbclient //s/x -U bob
smbclient //s/x --user=bob%«hunter2»
    smbclient //s/x --user=bob -N
rpcclient -U bob%«hunter2» srv
    rpcclient -U "" srv
wbinfo -a bob%«hunter2»
    wbinfo -u bob%x
mosquitto_pub -h mq -u bob -P «hunter2» -t a -m x
    mosquitto_pub -h mq -u bob -p 1883 -t a -m x
mosquitto_sub -P«hunter2» -t a
    mosquitto_sub -p1883 -t a
htpasswd -b /etc/htpasswd bob «hunter2»
    htpasswd /etc/htpasswd bob
htpasswd -cbB -C 10 /etc/htpasswd bob «hunter2»
    htpasswd -cB -C 10 /etc/htpasswd bob
htpasswd -nb bob «hunter2»
    htpasswd -n bob
zip -P «hunter2» a.zip f
    zip -p a.zip f
zip -rP «hunter2» a.zip d
    zip -r a.zip d
unzip -P «hunter2» a.zip
    unzip -p a.zip f
7z a -p«hunter2» a.7z d
    7z a -spf -mx9 a.7z d
rar a -hp«hunter2» a.rar d
    rar a -m5 a.rar d
unrar x -p«hunter2» a.rar
    unrar x -o+ a.rar
gpg --batch --passphrase «sesame» -d f.gpg
    gpg --batch --passphrase-file /etc/p -d f.gpg
gpg --pinentry-mode loopback --passphrase=«sesame» -c f
    gpg --pinentry-mode loopback --delete-secret-key ABCD
net use Z: '\\srv\share' «hunter2» /user:bob
    net use Z: /delete
svn co --username bob --password «hunter2» http://s/
    svn commit -m "password: now from the environment"
hg push --config auth.x.password=«hunter2»
    hg commit -m "token: refresh earlier"
svn up --username bob --password=«hunter2»
    svn up --username bob --no-auth-cache
vault login «s.abcdef»
    vault login -method=ldap
vault kv put secret/app db=«hunter2»
    vault kv get secret/app
vault write auth/userpass/users/bob password=«hunter2»
    vault write -f auth/token/create
mongo -u bob -p «hunter2» admin
    mongo -u bob -p --authenticationDatabase admin
mongosh --username bob --password «hunter2» db
    mongosh --username bob --port 27017 db
mongodump -p«hunter2» -u bob
    mongodump --port=27017 -u bob
psql "host=h user=u password=«x»"
    psql --password -h h
pg_dump "postgres://u:«x»@h/db"
    pg_dump --password -h h db
sqlcmd -S db -U sa -P «hunter2» -Q "select 1"
    sqlcmd -S db -E -p 1 -Q "select 1"
bcp t out f -U sa -P«hunter2»
    bcp t out f -T
isql -U sa -P «hunter2»
    isql dsn bob
sqlplus scott/«tiger»@db
    sqlplus / as sysdba
rman target sys/«tiger»@db
    rman target /
rdesktop -u bob -p «hunter2» host
    rdesktop -u bob -P host
xfreerdp /u:bob /p:«hunter2» /v:host
    xfreerdp /u:bob /port:3389 /v:host
xfreerdp /v:host /gp:«hunter2»
    xfreerdp /v:host /g:gateway
nmcli dev wifi connect home password «hunter2»
    nmcli dev wifi connect home
nmcli con modify home wifi-sec.psk «hunter22»
    nmcli con modify home wifi-sec.key-mgmt wpa-psk
wpa_passphrase home «hunter22»
    wpa_passphrase home
wpa_cli set_network 0 psk «hunter22»
    wpa_cli set_network 0 ssid home
iwconfig wlan0 key «0123456789»
    iwconfig wlan0 essid key
cryptsetup --key-size 512 --passphrase «sesame» open x y
    cryptsetup --key-file /etc/k open x y
useradd -m -p «$6$abc» bob
    useradd -m -s /bin/sh bob
usermod -p «$6$abc» bob
    usermod -P /srv bob
kubectl create secret generic x --from-literal=user=«hunter2»
    kubectl create secret generic x --from-file=user=/etc/u
kubectl create secret generic x --from-literal k=«v»
    kubectl get secret x -o yaml
kubectl --token «abc» get pods
    kubectl create token default
kubectl create secret docker-registry r --docker-password=«hunter2»
    kubectl create secret docker-registry r --docker-server=x
docker login -u bob -p «hunter2» registry
    docker login -u bob --password-stdin registry
podman login -p«hunter2» -u bob registry
    podman run -p 80:80 -u bob web
helm registry login -u bob -p «hunter2» reg
    helm registry logout reg
az login -u bob -p «hunter2»
    az login --use-device-code
oc login -u bob -p «hunter2»
    oc get pods -p x
aws configure set aws_secret_access_key «abc/def»
    aws configure set region eu-west-1
gh secret set NAME --body «abc»
    gh secret list
ngrok authtoken «2abc_def»
    ngrok http 80
cargo login «cioabc»
    cargo build --locked
twine upload -u bob -p «hunter2» dist/x
    twine upload -r testpypi dist/x
npm config set //npm.example/:_authToken=«abc»
    npm config set fund=false
composer config http-basic.x bob -- --password «abc»
    composer config repositories.x vcs
snmpwalk -v2c -c «private» host
    snmpwalk -v3 -l authPriv host
snmpget -v3 -u bob -A «authpass1» -X «privpass1» host oid
    snmpget -v3 -u bob -a SHA -x AES host oid
ipmitool -H bmc -U admin -P «hunter2» power status
    ipmitool -H bmc -U admin -p 623 power status
keytool -list -storepass «changeit» -keystore k
    keytool -list -keystore k -storetype jks
pkcs11-tool --login --pin «1234» -O
    pkcs11-tool --login -O
plink -pw «hunter2» bob@host
    plink -P 22 bob@host
ssh-keygen -t ed25519 -N «sesame» -f k
    ssh-keygen -t ed25519 -N '' -f k
slappasswd -s «hunter2»
    slappasswd -h {SSHA}
kadmin -p bob -w «hunter2» -q list
    kadmin -p bob -k -q list
rabbitmqctl add_user bob «hunter2»
    rabbitmqctl list_users
mc alias set s3 https://s «AK1» «SK1»
    mc alias list s3
lftp -u bob,«hunter2» ftp://h
    lftp -u bob ftp://h
ab -n 5 -A bob:«hunter2» http://h/
    ab -n 5 -H a:b http://h/
http -a bob:«hunter2» GET h
    http GET h a=b
etcdctl --user root:«hunter2» get k
    etcdctl --user root get k
cqlsh -u bob -p «hunter2» h
    cqlsh h 9042
ttyd -c bob:«hunter2» sh
    ttyd -p 7681 sh
x11vnc -passwd «hunter2»
    x11vnc -rfbauth /etc/vnc
pdftk a.pdf input_pw «x» output b.pdf
    pdftk a.pdf output b.pdf
rclone obscure «hunter2»
    rclone ls remote:
swaks --to a@b --auth-password «hunter2»
    swaks --to a@b --auth LOGIN
tailscale up --authkey «tskey-abc»
    tailscale up --ssh
mkpasswd -m sha-512 «hunter2»
    mkpasswd -m sha-512
doveadm pw -s SSHA -p «hunter2»
    doveadm who -p
gpg-preset-passphrase -P «sesame» ABCD
    gpg-preset-passphrase --forget ABCD
# shell text and wrappers
sh -c "PGPASSWORD=«x» psql -h db"
    sh -c "PGPORT=5433 psql -h db"
sh -c "mysql -u root -p«hunter2» < dump.sql"
    sh -c "mkdir -p hunter2 < dump.sql"
sh -c "cd /srv && sshpass -p '«hunter 2»' ssh db"
    sh -c "cd /srv && ssh -p '22' db"
bash -lc "export API_KEY=«abc»; run"
    bash -lc "export API_URL=abc; run"
bash -c 'curl -u "bob:«hunter2»" https://h/ | jq .'
    bash -c 'tar -t -f "bob:hunter2" | sort -k 2'
bash -c "curl -H 'Authorization: «Bearer abc»' https://h/; echo done"
    bash -c "curl -H 'Accept: text/html' https://h/; echo done"
sh -c "echo 'bob:«hunter2»' | chpasswd"
    sh -c "echo 'bob:hunter2' | cat"
sh -c "echo «hunter2» | sudo -S reboot"
    sh -c "echo hunter2 | sudo tee /etc/x"
sh -c "echo «hunter2» | docker login -u bob --password-stdin"
    sh -c "echo hunter2 | docker exec -i x sh"
sh -c "printf bob:«hunter2» | /usr/sbin/chpasswd"
    sh -c "printf bob:hunter2 || /usr/sbin/chpasswd"
sh -c "echo «hunter2» | passwd --stdin bob"
    sh -c "passwd -l bob"
sh -c "bash -c 'redis-cli -a «hunter2» ping'"
    sh -c "bash -c 'redis-cli -n 2 ping'"
su - postgres -c "psql 'password=«x» host=h'"
    su - postgres -c "psql 'host=h'"
sudo -u bob mysql -p«hunter2»
    sudo -p mysql -u bob ls
sudo mysql -p«hunter2»
    sudo mkdir -phunter2
sudo -E env A=b timeout 5 nice -n 3 nohup redis-cli -a «x»
    sudo -E env A=b timeout 5 nice -n 3 nohup tar -a x
timeout -s KILL 30 curl -u bob:«x» https://h/
    timeout -s KILL 30 tar -u bob:x
ssh db mysql -u root -p«hunter2» shop
    ssh -p 22 db mkdir -phunter2 shop
ssh db "PGPASSWORD=«x» psql"
    ssh -o PasswordAuthentication=no db psql
docker exec -it db mysql -p«hunter2»
    docker exec -it db mkdir -phunter2
docker run --rm -p 80:80 --name mysql redis redis-cli -a «x»
    docker run --rm -p 6379:6379 --name sshpass redis
kubectl exec -it pod -- mysql -p«hunter2»
    kubectl exec -it pod -- mkdir -phunter2
watch -n 5 "mysqladmin -p«hunter2» status"
    watch -n 5 "ps -p 1"
xargs -n 1 curl -u bob:«x»
    xargs -n 1 tar -u bob:x
find / -name x -exec curl -u bob:«x» -T {} h ;
    find / -name password -exec grep -u bob:x {} ;
flock /run/l -c "redis-cli -a «x» save"
    flock /run/l -c "redis-cli save"
busybox sh -c "zip -P «x» a b"
    busybox sh -c "zip -p a b"
/usr/bin/env sh -c "TOKEN=«x» ./run"
    /usr/bin/env sh -c "TTL=x ./run"
tmux new-session -d "redis-cli -a «x»"
    tmux new-session -d "top -p 1"
# the rest of what must stay
app --password «-x8Kq9»
    ssh -p 22 bob@host
app --token «/abc»
    tar -t -f archive.tar
app --password «x»
    sort -k 2 passwords.txt
app --secret «x»
    mkdir -p /srv/secret
app --api-key «x»
    git commit -m "reset password"
app --pass «x»
    ps -p 1
app --password «x»
    passwd alice
app --token «x»
    grep -r password /etc
app --token «x»
    vim token.md
app --token «x»
    chrome --password-store=basic --enable-features=PasswordImport
app --token «x»
    git commit -m "token: use password=x from the vault"
app --token «x»
    ssh-keygen -p -f k
app --token «x»
    docker run -v /etc/passwd:/etc/passwd:ro web
app --token «x»
    docker run reg.io/my-token:latest
app --token «x»
    sudo -p "Password: " ls
app --token «x»
    aws s3api list-objects --starting-token abc
app --token «x»
    rsync -a --password-file=/etc/r user@host::x .
app --token «x»
    openvpn --auth-user-pass /etc/openvpn/up
app --token «x»
    Xorg :0 -auth /run/user/0/Xauthority
app --token «x»
    gnome-keyring-daemon --start --components=secrets
"""


class Case(NamedTuple):
    line: str
    argv: tuple[str, ...]
    expected: tuple[str, ...]
    secrets: tuple[str, ...]
    look_alike: tuple[str, ...]


def _case(secret: str, look_alike: str) -> Case:
    plain = secret.replace("«", "").replace("»", "")
    secrets = tuple(part.partition("»")[0] for part in secret.split("«")[1:])
    hidden = secret
    for value in secrets:
        hidden = hidden.replace(f"«{value}»", MARK, 1)
    return Case(
        plain,
        tuple(shlex.split(plain)),
        tuple(shlex.split(hidden)),
        secrets,
        tuple(shlex.split(look_alike)),
    )


_LINES = [line for line in TABLE.splitlines() if line and not line.startswith("#")]
CASES: Final = tuple(_case(first, second) for first, second in zip(_LINES[::2], _LINES[1::2], strict=True))
