import Foundation

/// Returns the first URL in `text` whose host is one of `domains`.
func ownLink(in text: String, domains: [String]) -> String? {
    let hosts = domains.map(bareHost)
    var rest = text[...]
    while let found = rest.range(
        of: "https?://[a-z0-9._~:/?#@!$&*+,;=%-]+", options: [.regularExpression, .caseInsensitive]
    ) {
        var url = rest[found]
        while let last = url.last, ".,:;!?*".contains(last) { url.removeLast() }
        let parts = URLComponents(string: String(url))
        if let host = parts?.host, parts?.user == nil, hosts.contains(bareHost(host)), url.utf8.count <= 2048 {
            return String(url)
        }
        rest = rest[found.upperBound...]
    }
    return nil
}

private func bareHost(_ host: String) -> String {
    let host = host.lowercased()
    return host.hasPrefix("www.") ? String(host.dropFirst(4)) : host
}
