/// Where this open should land. `openId` is nil if firstopen did not answer: the screen is the app's `home` then.
public struct Landing: Decodable, Equatable, Sendable {
    public struct Route: Decodable, Equatable, Sendable {
        public let screen: String
        public let params: [String: String]
        public let url: String?
        public let reason: String?
    }

    /// Why this build must not be used now: `kind` is `update` (it is too old) or `maintenance`.
    public struct Gate: Decodable, Equatable, Sendable {
        public let kind: String
        public let screen: String
        public let url: String?
        public let message: String?
    }

    public let openId: String?
    public let clickId: String?
    public let route: Route
    /// Not nil: show this screen instead of the route's.
    public let gate: Gate?
}

public struct Lead: Encodable, Sendable {
    public var eventName: String
    public var customerExternalId: String
    public var customerName: String?
    public var customerEmail: String?
    public var customerAvatar: String?
    public var metadata: [String: String]?

    public init(
        eventName: String, customerExternalId: String, customerName: String? = nil, customerEmail: String? = nil,
        customerAvatar: String? = nil, metadata: [String: String]? = nil
    ) {
        self.eventName = eventName
        self.customerExternalId = customerExternalId
        self.customerName = customerName
        self.customerEmail = customerEmail
        self.customerAvatar = customerAvatar
        self.metadata = metadata
    }
}

/// How far a lead got: `status` is `delivered`, `queued` or `organic` (the install came by no click).
public struct LeadAnswer: Decodable, Equatable, Sendable {
    public let leadId: String?
    public let status: String
}

/// firstopen refused a request. `retryAfterMs` is its Retry-After header.
public struct FirstopenError: Error, Equatable, Sendable {
    public let status: Int
    public let retryAfterMs: UInt64?
}
