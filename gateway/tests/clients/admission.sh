#!/usr/bin/env bash
# Who is let in, as whom, and how much of it: clients behind nginx and HAProxy in each way that these have to name them,
# forgers in front of both and past them, an origin that only its CDN may reach.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
cd "$WORK"

PIDS=()
end_proxies() {
    ((${#PIDS[@]} == 0)) || kill "${PIDS[@]}" 2>/dev/null || true
    PIDS=()
}
trap 'CODE=$?; end_proxies; cleanup "$CODE"' EXIT
export BOXGATE_TRUSTED_PROXIES=127.0.0.1
CLIENT=127.0.0.9 # another address of this machine; what listens is at 127.0.0.1
FORGED=6.6.6.6
read -r NGINX_PORT H1_PORT V1_PORT V2_PORT <<<"$(free_ports 4)"

# seen NAME WANT CURL-ARGUMENTS...: as whose the gateway took a request, from its log; nothing is at the path that is asked for.
seen() {
    local name=$1 want=$2 id
    shift 2
    http -k --interface "$CLIENT" "$@"
    id=$(header x-request-id)
    if [[ -z $id ]]; then fail "$name: $STATUS, curl $CURL_EXIT $(brief "$(cat curl.err)")"; return; fi
    logged() { grep -q "\"request_id\":\"$id\".*\"client_ip\"" gateway.log; }
    eventually 60 logged || true
    equal "$name" "$want" "$(grep "\"request_id\":\"$id\"" gateway.log | jq -r 'select(.client_ip) | .client_ip' | tail -n 1)"
}

start_nginx() {
    mkdir -p temp
    {
        [[ $EUID != 0 ]] || echo "user root;"
        echo "daemon off; worker_processes 1; pid $WORK/nginx.pid; error_log $WORK/nginx.log; events { }"
        echo "http { access_log off;"
        for what in client_body proxy fastcgi uwsgi scgi; do echo "${what}_temp_path $WORK/temp/$what;"; done
        cat <<END
server {
    listen 127.0.0.1:$NGINX_PORT;
    client_max_body_size 0;
    proxy_request_buffering off;
    location / {
        proxy_pass $URL;
        proxy_http_version 1.1;
        proxy_set_header Host \$host;
        proxy_set_header Connection "";
        proxy_set_header X-Forwarded-For \$proxy_add_x_forwarded_for;
        proxy_set_header X-Origin-Secret "$SECRET";
    }
}
}
END
    } >nginx.conf
    nginx -p "$WORK" -c "$WORK/nginx.conf" 2>nginx.err &
    PIDS+=($!)
    eventually 60 curl -s -o /dev/null "http://127.0.0.1:$NGINX_PORT/livez" || fail "nginx: $(brief "$(cat nginx.err)")"
}

start_haproxy() {
    cat >haproxy.cfg <<END
global
    maxconn 200
defaults
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend with_field
    mode http
    bind 127.0.0.1:$H1_PORT
    http-request add-header Forwarded "for=%[src];proto=http"
    default_backend with_field
backend with_field
    mode http
    server gateway ${URL#*://}
listen version_1
    mode tcp
    bind 127.0.0.1:$V1_PORT
    server gateway ${URL#*://} send-proxy
listen version_2
    mode tcp
    bind 127.0.0.1:$V2_PORT
    server gateway ${URL#*://} send-proxy-v2 check check-send-proxy inter 100ms
END
    haproxy -db -f haproxy.cfg >haproxy.log 2>&1 &
    PIDS+=($!)
    eventually 60 bash -c "exec 3<>/dev/tcp/127.0.0.1/$V2_PORT" || fail "haproxy: $(brief "$(cat haproxy.log)")"
}

# --- nginx, X-Forwarded-For, and an origin that only it may reach ---
SECRET=$(random_hex 16)
printf '%s\n%s\n' "$(random_hex 16)" "$SECRET" >secrets
export BOXGATE_SERVER__ORIGIN_SECRET_FILE=$WORK/secrets
start_gateway
start_nginx
THROUGH=http://127.0.0.1:$NGINX_PORT
seen "behind nginx the client is itself" "$CLIENT" "$THROUGH/api/nothing"
seen "what it says of itself does not count" "$CLIENT" -H "X-Forwarded-For: $FORGED" "$THROUGH/api/nothing"
seen "nor by another field" "$CLIENT" -H "Forwarded: for=$FORGED" -H "X-Real-IP: $FORGED" "$THROUGH/api/nothing"
http "$THROUGH/api/status"
answers "what came through nginx is answered" 200
seen "past nginx a forger is itself" "$CLIENT" -H "X-Forwarded-For: $FORGED" "$URL/api/nothing"
answers "and is not let in" 403 NOT_THROUGH_CDN
http -H "X-Origin-Secret: $(random_hex 16)" "$URL/$ORG/demo"
answers "nor with a wrong secret" 403
http -H "X-Origin-Secret: $SECRET" -H "X-Origin-Secret: $SECRET" "$URL/$ORG/demo"
answers "nor with it twice" 403
http "$URL/livez"
answers "a probe is let in" 200
make_box a.box 100
http -X POST -H "Authorization: Bearer $CLIENT_SECRET" -T a.box "${BASE/$URL/$THROUGH}/box/demo/version/1.0.0/provider/virtualbox/architecture/amd64/file/upload"
answers "an upload comes through" 200
http -X POST -H "Authorization: Bearer $CLIENT_SECRET" -T a.box "$(file_path demo 2.0.0)/upload"
answers "and past it does not, key or not" 403
run 0 "an administrator of this machine is let in" env BOXGATE_URL="$URL" BOXGATE_TOKEN="$ADMIN_TOKEN" "$GATEWAY" admin upload list
equal "nobody tells the secret" 0 "$(cat gateway.log <(curl -s "$URL/metrics") | grep -cF -e "$SECRET" || true)"
end_proxies
stop_gateway
unset BOXGATE_SERVER__ORIGIN_SECRET_FILE

# --- how often, and how much ---
export BOXGATE_LIMITS__RATE_EXEMPT='' BOXGATE_RATES__ADDRESS__REQUESTS=1 BOXGATE_RATES__ADDRESS__BURST=5
export BOXGATE_RATES__PRINCIPAL__BYTES_IN=4MiB
start_gateway
start_nginx
THROUGH=http://127.0.0.1:$NGINX_PORT
refused_soon() {
    for _ in {1..200}; do
        http --interface "$CLIENT" "$THROUGH/api/discover"
        [[ $STATUS != 429 ]] || return 0
    done
    return 1
}
refused_soon || true
answers "a client behind nginx that asks too often" 429 RATE_LIMIT_EXCEEDED
matches "is told when to come again" '^[1-5]$' "$(header retry-after)"
matches "and what it may" '^"address";q=5;w=5$' "$(header ratelimit-policy)"
http --interface 127.0.0.10 "$THROUGH/api/discover"
answers "its neighbour is answered" 200
make_box b.box 12000
SENT=$(curl -sS --fail --interface 127.0.0.11 -H "Authorization: Bearer $CLIENT_SECRET" -T b.box -X POST -o sent -w '%{time_total}' "${BASE/$URL/$THROUGH}/box/demo/version/3.0.0/provider/virtualbox/architecture/amd64/file/upload")
equal "12 MB at 4 MiB in a second take two seconds at least" yes "$(jq -n --argjson s "$SENT" 'if $s > 2 then "yes" else "\($s)" end' -r)"
equal "and come whole" "$(sha256 b.box)" "$(curl -sS --fail --interface 127.0.0.12 -H "Authorization: Bearer $CLIENT_SECRET" "${BASE/$URL/$THROUGH}/box/demo/version/3.0.0/provider/virtualbox/architecture/amd64/file/download" | sha256sum | cut -d' ' -f1)"
end_proxies
stop_gateway
unset BOXGATE_LIMITS__RATE_EXEMPT BOXGATE_RATES__ADDRESS__REQUESTS BOXGATE_RATES__ADDRESS__BURST BOXGATE_RATES__PRINCIPAL__BYTES_IN

# --- HAProxy, Forwarded ---
export BOXGATE_SERVER__CLIENT_IP=forwarded
start_gateway
start_haproxy
THROUGH=http://127.0.0.1:$H1_PORT
seen "behind HAProxy the client is itself" "$CLIENT" "$THROUGH/api/nothing"
seen "what it says of itself does not count" "$CLIENT" -H "Forwarded: for=$FORGED" "$THROUGH/api/nothing"
seen "nor by another field" "$CLIENT" -H "X-Forwarded-For: $FORGED" "$THROUGH/api/nothing"
seen "past HAProxy a forger is itself" "$CLIENT" -H "Forwarded: for=$FORGED" "$URL/api/nothing"
end_proxies
stop_gateway

# --- HAProxy, PROXY protocol, below TLS ---
export BOXGATE_SERVER__CLIENT_IP=proxy-protocol
start_gateway --tls self-signed
start_haproxy
for version in 1 2; do
    port=V${version}_PORT
    for alpn in --http1.1 --http2; do
        name="PROXY protocol $version, $alpn"
        seen "$name: the client is itself" "$CLIENT" $alpn "https://127.0.0.1:${!port}/api/nothing"
        seen "$name: a field does not count" "$CLIENT" $alpn -H "X-Forwarded-For: $FORGED" "https://127.0.0.1:${!port}/api/nothing"
    done
done
# The balancer takes what its client sends for the first bytes of TLS, and so does the gateway.
http -k --haproxy-protocol --interface "$CLIENT" "https://127.0.0.1:$V2_PORT/api/nothing"
equal "a forger's own header through HAProxy" 000 "$STATUS"
http -k --haproxy-protocol --interface "$CLIENT" "$URL/api/nothing"
equal "a forger's own header past HAProxy" 000 "$STATUS"
seen "without one a stranger is served as itself" "$CLIENT" "$URL/api/nothing"
http -k "$URL/livez"
equal "from the balancer's address nobody is served without one" 000 "$STATUS"
checked() { grep -q 'UP' haproxy.log || ! grep -q 'DOWN' haproxy.log; }
if checked; then ok "HAProxy's checks find the gateway up"; else fail "HAProxy: $(brief "$(cat haproxy.log)")"; fi
end_proxies
stop_gateway
unset BOXGATE_SERVER__CLIENT_IP

# --- certificates of clients ---
for ca in cdn other; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=$ca" -keyout $ca-ca.key -out $ca-ca.pem 2>/dev/null
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=edge" -keyout $ca.key -out $ca.csr 2>/dev/null
    openssl x509 -req -in $ca.csr -CA $ca-ca.pem -CAkey $ca-ca.key -CAcreateserial -days 2 -extfile <(echo extendedKeyUsage=clientAuth) -out $ca.pem 2>/dev/null
done
export BOXGATE_TLS__CLIENT_CA=$WORK/cdn-ca.pem
cat >boxgate.toml <<END
[[listeners]]
address = "127.0.0.1:0"
tls = true
[tls]
certificate = "$WORK/data/tls/self-signed.pem"
key = "$WORK/data/tls/self-signed-key.pem"
END
start_gateway --config boxgate.toml
for alpn in --http1.1 --http2; do
    http -k $alpn --cert cdn.pem --key cdn.key "$URL/livez"
    answers "the CDN's certificate, $alpn" 200
    http -k $alpn "$URL/livez"
    equal "none, $alpn" 000 "$STATUS"
    http -k $alpn --cert other.pem --key other.key "$URL/livez"
    equal "somebody else's, $alpn" 000 "$STATUS"
done
stop_gateway
unset BOXGATE_TLS__CLIENT_CA

finish
