# Caches in front of the gateway, as docs/cdn.md sets them up. Sourced behind lib.sh, in $WORK.
# shellcheck shell=bash disable=SC2034

# from_cdn_page KIND: the page's example of that kind, with this gateway's place and this test's folders.
from_cdn_page() {
    sed -n "/^\`\`\`$1\$/,/^\`\`\`\$/p" "$ROOT/docs/cdn.md" | sed "1d;\$d
        s#/var/cache/nginx/boxgate#$WORK/cdn#
        s#listen 80;#listen unix:$WORK/cdn.sock;#
        s#http://127.0.0.1:8080#$URL#
        s#\"8080\"#\"${URL##*:}\"#"
}

# start_edge_nginx: nginx at $WORK/cdn.sock with its cache in $WORK/cdn. Sets NGINX_PID.
start_edge_nginx() {
    mkdir cdn temp
    {
        [[ $EUID != 0 ]] || echo "user root;"
        echo "daemon off; worker_processes 1; pid $WORK/nginx.pid; error_log $WORK/nginx.log; events { }"
        echo "http {"
        echo "access_log off;"
        for what in client_body proxy fastcgi uwsgi scgi; do
            echo "${what}_temp_path $WORK/temp/$what;"
        done
        from_cdn_page nginx
        echo "}"
    } >nginx.conf
    nginx -p "$WORK" -c "$WORK/nginx.conf" 2>"$WORK/nginx.err" &
    NGINX_PID=$!
    if eventually 30 test -S cdn.sock; then ok "nginx is up"; else fail "nginx: $(brief "$(cat nginx.err)")"; finish; fi
}
